// Training curves: one small chart per quantity of a stage, over epochs.

function trainingSection(stages) {
  return stages.flatMap((stage) => [
    element("div", { class: "stage" }, element("h3", {}, stage.title), element("p", {}, stage.status)),
    stage.train.length || stage.validation.length
      ? element("div", { class: "charts" }, ...charts(stage))
      : element("p", { class: "note" }, stage.metrics ? "This run was only evaluated." : "No data yet: the first values are written after half an epoch."),
  ]);
}

function charts(stage) {
  const { key, train, validation } = stage;
  const series = (name, lines, quantity, style) => ({
    name, style: `line line-${key} ${style}`, colour: key, dots: lines === validation,
    points: lines.filter((line) => typeof line[quantity] === "number").map((line) => [line.epoch, line[quantity], line.step]),
  });
  return [
    lineChart(stage, "Loss", [series("training", train, "loss", "light"), series("validation", validation, "loss", "")], decimal),
    lineChart(stage, "mAP, %", [
      series("training clips", train, "mAP", "light"),
      series("test videos, rule official", validation, "mAP_official_defined", ""),
    ], percent, { fromZero: true }),
    lineChart(stage, "Learning rate", [series("learning rate", train, "lr", "")], (value) => value.toPrecision(2), { log: true, path: steps }),
    timeChart(stage),
  ].filter(Boolean);
}

// The first of equally good validations is saved as best.pt.
function bestEpoch(stage) {
  const scored = stage.validation.filter((line) => typeof line.mAP_official_defined === "number");
  return scored.length ? scored.reduce((best, line) => (line.mAP_official_defined > best.mAP_official_defined ? line : best)).epoch : null;
}

function lastEpoch(stage) {
  return Math.max(...[...stage.train, ...stage.validation].map((line) => line.epoch));
}

function lineChart(stage, title, series, format, { log = false, fromZero = false, path = polyline } = {}) {
  series = series.filter((one) => one.points.length);
  if (!series.length) return null;
  const values = series.flatMap((one) => one.points.map((point) => point[1]));
  const scale = log ? logScale(values) : linearScale(values, fromZero);
  const end = lastEpoch(stage);
  const x = (epoch) => epoch / end;
  const drawing = [
    stretched(1, 1, ...series.map((one) => shape("path", { class: one.style, d: path(one.points.map(([epoch, value]) => [x(epoch), 1 - scale.place(value)])) }))),
    ...series.filter((one) => one.dots || one.points.length === 1).flatMap((one) =>
      one.points.map(([epoch, value]) => shape("circle", { class: `fill-${one.colour}`, cx: share(x(epoch)), cy: share(1 - scale.place(value)), r: 2.6 }))),
  ];
  const best = series.some((one) => one.dots) ? bestEpoch(stage) : null;
  if (best !== null) drawing.unshift(shape("line", { class: "best", x1: share(x(best)), x2: share(x(best)), y1: 0, y2: "100%" }));
  const epochs = [...new Set(series.flatMap((one) => one.points.map((point) => point[0])))].sort((a, b) => a - b);
  const at = series.map((one) => new Map(one.points.map((point) => [point[0], point])));
  const read = (index) => {
    const points = series.map((one, number) => [one.name, at[number].get(epochs[index])]).filter(([, point]) => point);
    return {
      title: `Epoch ${compact(epochs[index])}, step ${grouped(points[0][1][2])}`,
      lines: points.map(([name, point]) => [name, format(point[1])]),
    };
  };
  return chart({ stage, title, key: series, drawing, scale, format, end, epochs, read, best });
}

// Seconds per step: waiting for data stacked on computing.
function timeChart(stage) {
  const bars = stage.train.filter((line) => line.steps);
  if (!bars.length) return null;
  const perStep = bars.map((line) => ({ ...line, waiting: line.data_seconds / line.steps, computing: line.compute_seconds / line.steps }));
  const scale = linearScale(perStep.map((bar) => bar.waiting + bar.computing), true);
  const end = lastEpoch(stage);
  const drawing = perStep.flatMap((bar, index) => {
    const from = index ? perStep[index - 1].epoch : 0;
    const column = (name, low, high) => shape("rect", { class: `fill-${name}`, x: share(from / end), width: share(Math.max(0, bar.epoch - from) / end * 0.86),
      y: share(1 - scale.place(high)), height: share(scale.place(high) - scale.place(low)) });
    return [column("computing", 0, bar.computing), column("waiting", bar.computing, bar.computing + bar.waiting)];
  });
  const total = (name) => bars.reduce((sum, line) => sum + line[name], 0);
  const waited = total("data_seconds") / (total("data_seconds") + total("compute_seconds") || 1);
  const read = (index) => ({
    title: `Up to epoch ${compact(perStep[index].epoch)}, seconds per step`,
    lines: [["waiting for data", decimal(perStep[index].waiting)], ["computing", decimal(perStep[index].computing)]],
  });
  const key = [{ name: "computing", fill: "computing" }, { name: `waiting for data, ${percent(waited)}% in total`, fill: "waiting" }];
  return chart({ stage, title: "Seconds per step", key, drawing, scale, format: compact, end, epochs: perStep.map((bar) => bar.epoch), read, best: null });
}

function chart({ stage, title, key, drawing, scale, format, end, epochs, read, best }) {
  const lines = scale.ticks.map((tick) => shape("line", { class: "gridline", x1: 0, x2: "100%", y1: share(1 - scale.place(tick)), y2: share(1 - scale.place(tick)) }));
  const hair = shape("line", { class: "hair-line", y1: 0, y2: "100%", visibility: "hidden" });
  const plot = element("div", { class: "plot" }, shape("svg", {}, ...lines, ...drawing, hair));
  const place = (node, side, value) => {
    node.style[side] = share(value);
    return node;
  };
  plot.append(
    ...scale.ticks.map((tick) => place(element("span", { class: "tick y", "aria-hidden": "true" }, tickText(tick, scale, format)), "bottom", scale.place(tick))),
    ...roundTicks(0, end, 5).map((tick) => place(element("span", { class: "tick x", "aria-hidden": "true" }, String(tick)), "left", tick / end)),
  );
  readable(plot, {
    label: `${stage.title}, ${title}`, places: epochs.map((epoch) => epoch / end), read,
    mark: (index) => {
      hair.setAttribute("visibility", index === null ? "hidden" : "visible");
      if (index !== null) ["x1", "x2"].forEach((side) => hair.setAttribute(side, share(epochs[index] / end)));
    },
  });
  const keys = (key.length > 1 ? key : []).map((one) => element("span", {}, keyDrawing(one), one.name));
  if (best !== null) keys.push(element("span", {}, shape("svg", {}, shape("line", { class: "best", x1: "50%", x2: "50%", y1: 0, y2: "100%" })), "best checkpoint"));
  return element("figure", { class: "chart" }, element("figcaption", {}, title, element("span", { class: "key" }, ...keys)), plot);
}

function keyDrawing({ style, fill, dots, colour }) {
  if (fill) return shape("svg", {}, shape("rect", { class: `fill-${fill}`, width: "100%", height: "100%" }));
  const dot = dots ? shape("circle", { class: `fill-${colour}`, cx: "50%", cy: "50%", r: 2.6 }) : null;
  return shape("svg", {}, shape("line", { class: style, x1: 0, x2: "100%", y1: "50%", y2: "50%" }), dot);
}

const tickText = (tick, scale, format) => (scale.log ? Number(tick.toPrecision(2)).toString() : format === percent ? (100 * tick).toFixed(0) : compact(tick));

function linearScale(values, fromZero) {
  let low = fromZero ? 0 : Math.min(...values);
  let high = Math.max(...values);
  if (high - low < 1e-12) high = low + (Math.abs(low) || 1);
  const margin = 0.06 * (high - low);
  low = fromZero ? 0 : low - margin;
  high += margin;
  return { place: (value) => (value - low) / (high - low), ticks: roundTicks(low, high, 4), log: false };
}

function logScale(values) {
  const positive = values.filter((value) => value > 0);
  const low = Math.floor(Math.log10(Math.min(...positive)) - 0.2);
  const high = Math.ceil(Math.log10(Math.max(...positive)) + 0.2);
  const ticks = [];
  for (let power = low; power <= high; power += 1) ticks.push(10 ** power);
  return { place: (value) => (Math.log10(value) - low) / (high - low), ticks, log: true };
}

const polyline = (points) => points.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(5)} ${y.toFixed(5)}`).join("");

// Each value extends back to the previous point, since it is the rate of the steps in between.
const steps = (points) => points.map(([x, y], index) => `${index ? "V" : "M0 "}${y.toFixed(5)}H${x.toFixed(5)}`).join("");
