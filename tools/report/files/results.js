// The head of the page, the metrics by rule, and the description of the run.

const METRICS = [
  ["mAP_official", "mAP, rule official", "25 frames of every test video, as in the challenge"],
  ["mAP_official_defined", "mAP, rule official, classes with positives", "mean over the classes that have positives"],
  ["wAP_official", "wAP, rule official", "classes weighted by their positives"],
  ["mAP_released", "mAP, rule released", "25 labelled frames of the longer videos, as printed by the published code"],
  ["mAP_frames", "mAP, all frames", "every labelled frame, as printed by the published first stage"],
  ["loss", "Loss", "mean of the two losses below"],
  ["cls_loss", "Classification loss", "loss on the highest score over time"],
  ["loc_loss", "Localization loss", "loss on every frame"],
];
const LOSSES = new Set(["loss", "cls_loss", "loc_loss"]);

function fillHead(data) {
  document.title = `${data.name} \u2013 training report`;
  document.getElementById("name").textContent = data.name;
  document.getElementById("subtitle").textContent = data.summary.slice(0, 2).map((line) => line[1]).join(". ");
  const scored = data.stages.filter((stage) => stage.metrics).reverse();
  const unscored = data.stages.filter((stage) => !stage.metrics);
  document.getElementById("figures").append(
    ...scored.map((stage) => element("div", {},
      element("b", { class: `of-${stage.key}` }, percent(stage.metrics.mAP_official_defined ?? stage.metrics.mAP_official)),
      element("small", {}, `${stage.title}, mAP in %`, element("br"), "rule official"))),
    ...unscored.map((stage) => element("div", {}, element("b", {}, MISSING), element("small", {}, stage.title, element("br"), stage.status))),
  );
}

function resultsSection(data) {
  const stages = data.stages.filter((stage) => stage.metrics);
  if (!stages.length) return [element("p", { class: "note" }, "No validation yet: metrics and predictions are written after the first round of epochs.")];
  const known = new Set(METRICS.map((metric) => metric[0]));
  const others = Object.keys(Object.assign({}, ...stages.map((stage) => stage.metrics)))
    .filter((name) => /^[mw]AP_/.test(name) && !known.has(name)).map((name) => [name, name.replace("_", ", "), ""]);
  const complete = stages.every((stage) => stage.metrics.mAP_official !== null);
  const shown = [...METRICS.slice(0, 5), ...others, ...METRICS.slice(5)].filter(([name]) =>
    stages.some((stage) => name in stage.metrics) && !(complete && name === "mAP_official_defined"));
  const text = (stage, name) => (LOSSES.has(name) ? decimal(stage.metrics[name], 4) : percent(stage.metrics[name]));
  const table = element("table", { class: "metrics" },
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Rule"), ...stages.map((stage) => element("th", { scope: "col", class: `of-${stage.key}` }, stage.title)))),
    element("tbody", {}, ...shown.map(([name, title, meaning]) => element("tr", {},
      element("th", { scope: "row" }, title, meaning ? element("small", {}, meaning) : null),
      ...stages.map((stage) => element("td", { class: name.startsWith("mAP_official") ? "main" : "" }, text(stage, name)))))));
  return [element("div", { class: "scroll" }, table), ...stages.flatMap(remarks)];
}

// Notes on the numbers of a stage.
function remarks({ title, metrics }) {
  const absent = (metrics.classes_without_positives ?? []).length;
  const counted = [
    [absent, `${title}: ${absent} classes have no positives, so mAP over all classes is undefined under rule official.`],
    [metrics.videos_without_prediction, `${title}: ${metrics.videos_without_prediction} videos of the ground truth have no prediction; they rank below all others.`],
    [metrics.videos_not_in_ground_truth, `${title}: ${metrics.videos_not_in_ground_truth} predicted videos are not in the ground truth and are ignored.`],
  ];
  return counted.filter(([count]) => count).map(([, text]) => element("p", { class: "note" }, text));
}

function runSection(data) {
  const general = definitions("Configuration", [...data.summary, ["Folder", data.folder]]);
  return [element("div", { class: "cards" }, general, ...data.stages.map(stageCard))];
}

function stageCard(stage) {
  const best = stage.best;
  const card = definitions(stage.title, [
    ["Status", stage.status],
    ["Started", stage.started],
    ["Last entry", stage.updated],
    ["Training", stage.training],
    ["Best checkpoint", best && `epoch ${best.epoch}, step ${grouped(best.step)}`],
    ["Written by", best && `version ${best.version}, configuration ${best.config_sha256}`],
  ]);
  card.append(...stage.notes.map((note) => element("p", { class: "note" }, note)));
  if (stage.config) card.append(element("details", {}, element("summary", {}, "All options"), element("pre", { tabindex: 0 }, stage.config)));
  return card;
}

function definitions(title, lines) {
  const list = element("dl", {}, ...lines.filter(([, text]) => text).flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
  return element("div", {}, element("h3", {}, title), list);
}
