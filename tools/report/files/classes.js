// The table of classes: bars, sorting by any column, search, and selection of the rule.

function classesSection(data) {
  const stages = data.stages.filter((stage) => stage.metrics);
  const allRules = Object.keys(data.classes[0].AP);
  const state = { rule: allRules[0], search: "", column: stages[stages.length - 1].key, descending: true };
  const columns = classColumns(stages, data.classes);
  const head = element("tr");
  const body = element("tbody");
  const foot = element("tr");
  const count = element("span", { role: "status" });

  function update() {
    const column = columns.find((one) => one.key === state.column);
    const rows = data.classes.filter((row) => row.name.toLowerCase().includes(state.search.toLowerCase()));
    rows.sort((a, b) => compare(column.value(a, state.rule), column.value(b, state.rule), state.descending));
    head.replaceChildren(...columns.map((one) => heading(one, state, (key) => {
      state.descending = state.column === key ? !state.descending : key !== "name";
      state.column = key;
      update();
      head.querySelector(`button[data-key="${key}"]`).focus();
    })));
    body.replaceChildren(...rows.map((row) => classRow(row, columns, stages, state.rule)));
    foot.replaceChildren(...columns.map((one) => (one.key === "name" ? element("th", { scope: "row" }, "Mean of these classes") : element("td", { class: one.key }, one.mean ? one.text(mean(rows.map((row) => one.value(row, state.rule)))) : ""))));
    count.textContent = rows.length === data.classes.length ? `${rows.length} classes` : `${rows.length} of ${data.classes.length} classes`;
  }

  const search = element("input", { type: "search", placeholder: "Search classes", "aria-label": "Search classes", oninput: (event) => {
    state.search = event.target.value;
    update();
  } });
  const rules = element("fieldset", {}, element("legend", {}, "Rule"), ...allRules.map((rule) => {
    const radio = element("input", { type: "radio", name: "rule", value: rule, onchange: () => {
      state.rule = rule;
      update();
    } });
    radio.checked = rule === state.rule;
    return element("label", {}, radio, rule === "frames" ? " all frames" : ` ${rule}`);
  }));
  update();
  const table = element("table", {}, element("thead", {}, head), body, element("tfoot", {}, foot));
  return [element("div", { class: "controls" }, search, rules, count), element("div", { class: "classes", tabindex: 0, role: "region", "aria-label": "Average precision of every class" }, table)];
}

function classColumns(stages, classes) {
  const columns = [{ key: "name", title: "Class", value: (row) => row.name, text: String }];
  if (classes.some((row) => row.positives !== null)) columns.push({ key: "positives", title: "Positives", value: (row) => row.positives, text: grouped });
  columns.push({ key: "bars", title: "AP, %" });
  for (const stage of stages) {
    columns.push({ key: stage.key, title: stage.title, value: (row, rule) => row.AP[rule][stage.key], text: percent, mean: true });
  }
  if (stages.length === 2) {
    const gain = (row, rule) => (row.AP[rule].coarse === null || row.AP[rule].fine === null ? null : row.AP[rule].coarse - row.AP[rule].fine);
    columns.push({ key: "gain", title: "Gain", value: gain, text: signed, mean: true });
  }
  return columns;
}

function heading(column, state, sort) {
  if (!column.value) return element("th", { scope: "col", class: "bars" }, column.title);
  const order = state.column === column.key ? (state.descending ? "descending" : "ascending") : null;
  const button = element("button", { type: "button", "data-key": column.key, onclick: () => sort(column.key) }, column.title);
  const printed = element("span", { class: "printed", "aria-hidden": "true" }, column.title); // buttons are not repeated on every printed page
  return element("th", { scope: "col", class: column.key, "aria-sort": order }, button, printed);
}

function classRow(row, columns, stages, rule) {
  return element("tr", {}, ...columns.map((column) => {
    if (column.key === "name") return element("th", { scope: "row" }, ...breakable(row.name), row.positives === null ? null : element("small", { class: "narrow" }, `${grouped(row.positives)} positives`));
    if (column.key === "bars") return element("td", { class: "bars" }, apBars(row, stages, rule));
    const value = column.value(row, rule);
    return element("td", { class: value === null ? `${column.key} missing` : column.key }, column.text(value));
  }));
}

function apBars(row, stages, rule) {
  const thick = 6;
  const bars = [...stages].reverse().map((stage, place) => shape("rect", { class: `fill-${stage.key}`, x: 0, y: place * (thick + 1), height: thick, width: share(row.AP[rule][stage.key] ?? 0), rx: 1 }));
  const height = stages.length * (thick + 1) + 1;
  if (row.chance !== null) bars.push(shape("line", { class: "chance", x1: share(row.chance), x2: share(row.chance), y1: -1, y2: height }));
  return shape("svg", { height, "aria-hidden": "true" }, ...bars);
}

const signed = (value) => (value === null || value === undefined ? MISSING : `${value < 0 ? "\u2212" : "+"}${percent(Math.abs(value))}`);

function mean(values) {
  const defined = values.filter((value) => value !== null && value !== undefined);
  return defined.length ? defined.reduce((sum, value) => sum + value, 0) / defined.length : null;
}

// Undefined values come last in both orders.
function compare(a, b, descending) {
  const missing = (value) => value === null || value === undefined;
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  const order = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
  return descending ? -order : order;
}
