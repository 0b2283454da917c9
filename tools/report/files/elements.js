"use strict";
// Elements, number formats, and the tooltip. Text is always inserted as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const MISSING = "\u2013";

function element(name, attributes = {}, ...children) {
  return furnish(document.createElement(name), attributes, children);
}

function shape(name, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, name), attributes, children);
}

function furnish(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// A name that may wrap after a slash.
function breakable(name) {
  return name.split("/").flatMap((part, index) => (index ? ["/", element("wbr"), part] : [part]));
}

// A drawing with x from 0 to `width` and y from 0 (top) to `height`, stretched to fill its parent.
function stretched(width, height, ...children) {
  return shape("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", width: "100%", height: "100%" }, ...children);
}

const share = (part) => `${(100 * part).toFixed(3)}%`;
const percent = (value) => (value === null || value === undefined ? MISSING : (100 * value).toFixed(1));
const decimal = (value, digits = 3) => (value === null || value === undefined ? MISSING : value.toFixed(digits));
const compact = (value) => (value === null || value === undefined ? MISSING : String(Number(value.toPrecision(3))));
const seconds = (value) => `${value.toFixed(2)}\u00a0s`;
const grouped = (value) => (value === null || value === undefined ? MISSING : value.toLocaleString("en"));

// About `count` round values from low to high, at most.
function roundTicks(low, high, count) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * 0.999);
  const ticks = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-6; tick += step) {
    ticks.push(Number(tick.toPrecision(12)));
  }
  return ticks;
}

const tip = document.getElementById("tip");

// Shows a title and [name, value] lines next to a point of the window.
function showTip(x, y, { title, lines }) {
  tip.replaceChildren(
    element("b", {}, title),
    ...lines.map(([name, value]) => element("div", {}, element("span", {}, name), element("span", {}, value))),
  );
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 14 + box.width > window.innerWidth ? x - 14 - box.width : x + 14;
  const top = y + 14 + box.height > window.innerHeight ? y - 14 - box.height : y + 14;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

function hideTip() {
  tip.hidden = true;
}

const spoken = ({ title, lines }) => [title, ...lines.map(([name, value]) => `${name} ${value}`)].join(", ");

// Makes an area readable along x with the pointer or the arrow keys. `places` are the readable positions (0 to 1,
// ascending), `read(index)` returns the text of a position, `mark(index)` highlights it, and `mark(null)` removes that.
function readable(area, { label, places, read, mark }) {
  if (!places.length) return;
  let at = null;
  furnish(area, { tabindex: 0, role: "slider", "aria-label": label, "aria-valuemin": 1, "aria-valuemax": places.length }, []);

  const tell = (index) => {
    at = index;
    const text = read(index);
    area.setAttribute("aria-valuenow", index + 1);
    area.setAttribute("aria-valuetext", spoken(text));
    return text;
  };
  const visit = (index, x, y) => {
    const text = tell(index);
    mark(index);
    showTip(x, y, text);
  };
  const leave = () => {
    mark(null);
    hideTip();
  };
  const visitByKey = (index) => {
    const box = area.getBoundingClientRect();
    visit(index, box.left + places[index] * box.width, box.top + box.height / 2);
  };
  const point = (event) => {
    const box = area.getBoundingClientRect();
    visit(nearest(places, (event.clientX - box.left) / box.width), event.clientX, event.clientY);
  };
  area.addEventListener("pointermove", point);
  area.addEventListener("pointerdown", point);
  area.addEventListener("pointerleave", leave);
  area.addEventListener("focus", () => {
    if (area.matches(":focus-visible")) visitByKey(at ?? 0);
  });
  area.addEventListener("blur", leave);
  area.addEventListener("keydown", (event) => {
    const last = places.length - 1;
    const moves = { ArrowLeft: (at ?? 0) - 1, ArrowDown: (at ?? 0) - 1, ArrowRight: (at ?? -1) + 1, ArrowUp: (at ?? -1) + 1, Home: 0, End: last };
    if (event.key === "Escape") leave();
    if (!(event.key in moves)) return;
    event.preventDefault();
    visitByKey(Math.min(last, Math.max(0, moves[event.key])));
  });
  tell(0);
  at = null;
}

function nearest(places, x) {
  let best = 0;
  places.forEach((place, index) => {
    if (Math.abs(place - x) < Math.abs(places[best] - x)) best = index;
  });
  return best;
}
