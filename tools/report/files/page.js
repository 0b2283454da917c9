// Assembles the page. Empty sections are removed.

function fill(id, nodes) {
  const section = document.getElementById(id);
  if (nodes === null) section.remove();
  else section.querySelector(".body").append(...nodes);
}

function main(data) {
  fillHead(data);
  fill("results", resultsSection(data));
  fill("videos", data.videos.length ? videosSection(data) : data.notes.length ? [] : null);
  document.querySelector("#videos .body")?.prepend(...data.notes.map((note) => element("p", { class: "note" }, note)));
  fill("classes", data.classes.length ? classesSection(data) : null);
  if (!data.classes.some((row) => row.chance !== null)) document.getElementById("chance-note")?.remove();
  fill("training", trainingSection(data.stages));
  fill("run", runSection(data));
  document.getElementById("contents").append(...[...document.querySelectorAll("main section")].map((section) =>
    element("a", { href: `#${section.id}` }, section.querySelector("h2").textContent)));
  document.getElementById("colophon").textContent = `Created ${data.made} from ${data.folder} by tools.report. This file is self-contained and works offline.`;
}

main(JSON.parse(document.getElementById("data").textContent));
