// Timelines of test videos: film strip, classes, Grid Pool's frames, Gaussian weights.

const HIGHEST_DENSITY = 4; // limit, relative to even sampling, so that one pair of close frames does not flatten the rest

function videosSection(data) {
  return [legend(data), ...data.videos.map((video) => videoArticle(video, data))];
}

function legend(data) {
  const stages = data.stages.filter((stage) => data.videos.some((video) => stage.key in video.scores));
  const sample = (...drawn) => shape("svg", {}, ...drawn);
  const steps = "M0 .9H.25V.3H.6V.6H1";
  const keys = [element("span", {}, sample(...zone(0, 1)), "ground truth")];
  for (const stage of stages) {
    const line = shape("path", { class: `line line-${stage.key}`, d: steps });
    const area = filled(stage.key, stages) ? shape("path", { class: `area fill-${stage.key}`, d: `${steps}V1H0Z` }) : null;
    keys.push(element("span", {}, sample(stretched(1, 1, ...[area, line].filter(Boolean))), `${stage.title}, score at ${data.videos.find((video) => stage.key in video.scores).scores[stage.key].at}`));
  }
  if (data.videos.some((video) => video.chosen.length)) {
    keys.push(element("span", {}, sample(...["20%", "40%", "48%", "56%", "80%"].map((x) => shape("line", { class: "mark", x1: x, x2: x, y1: 0, y2: "100%" }))), "frames selected by Grid Pool"));
  }
  return element("div", { class: "legend" }, ...keys);
}

// With two streams, Coarse-Fine scores are filled and the Fine stream's are drawn as a line on top.
const filled = (key, stages) => key === "coarse" || stages.length === 1;

function videoArticle(video, data) {
  const stages = data.stages.filter((stage) => stage.key in video.scores);
  const peak = Math.max(1e-9, ...Object.values(video.scores).flatMap((steps) => steps.rows.flat()).filter((score) => score !== null));
  const said = stages.map((stage) => `${stage.title} ${percent(video.precision[stage.key])}%`).join(", ");
  const article = element("article", { class: "video", "aria-label": `Video ${video.id}` });
  const scale = stages.length ? ` Rows are scaled to the highest score, ${decimal(peak, 2)}.` : "";
  article.append(
    element("header", {}, element("h3", {}, video.id), element("p", {}, [video.why, said && `AP over all scores of this video: ${said}.${scale}`].filter(Boolean).join(". "))),
    timeline(video, stages, peak, data.names),
    ...video.notes.map((note) => element("p", { class: "note" }, note)),
  );
  return article;
}

function timeline(video, stages, peak, names) {
  const box = element("div", { class: "timeline" });
  const point = (time) => {
    box.classList.toggle("pointed", time !== null);
    if (time !== null) box.style.setProperty("--at", share(time / video.seconds));
  };
  const focus = highlighter();
  const add = (label, track) => box.append(element("div", { class: "label" }, ...[label].flat()), track);
  if (video.strip.length) add("", filmStrip(video, point));
  add("", timeAxis(video));
  video.classes.forEach((label, row) => {
    const absent = !video.truth.some((action) => action[0] === label);
    add([...breakable(names[label]), absent ? element("small", {}, "not in this video") : null].filter(Boolean), classTrack(video, label, row, stages, peak, names, point));
  });
  if (video.chosen.length) add(["Grid Pool", element("small", {}, "denser where confident")], chosenTrack(video, point, focus));
  if (video.weights) add(["Gaussian weights", element("small", {}, `\u03c3 ${seconds(video.weights.sigma)}`)], weightsTrack(video, point, focus));
  if (video.chosen.length || video.classes.length > 6) add("", timeAxis(video));
  focus.show(null);
  return box;
}

function trackOf(kind, video, point, reading, ...children) {
  const track = element("div", { class: `track ${kind}` }, ...children, element("div", { class: "hair" }));
  readable(track, { ...reading, places: reading.times.map((time) => time / video.seconds), mark: (index) => {
    point(index === null ? null : reading.times[index]);
    reading.mark?.(index);
  } });
  return track;
}

function filmStrip(video, point) {
  const pictures = video.strip.map(([frame, time, jpeg]) => element("img", { src: `data:image/jpeg;base64,${jpeg}`, alt: `Frame ${frame}, ${seconds(time)}` }));
  const middle = video.strip.map((_, index) => ((index + 0.5) / video.strip.length) * video.seconds);
  const reading = {
    label: `Film strip of ${video.id}`, times: middle,
    read: (index) => ({ title: seconds(video.strip[index][1]), lines: [["video frame", grouped(video.strip[index][0])]] }),
  };
  return trackOf("strip", video, point, reading, ...pictures);
}

function timeAxis(video) {
  const ticks = roundTicks(0, video.seconds, 6).map((tick, index) => {
    const text = element("span", { class: "tick" }, index ? String(tick) : "0 s");
    text.style.left = share(tick / video.seconds);
    return text;
  });
  return element("div", { class: "track axis", "aria-hidden": "true" }, ...ticks);
}

function classTrack(video, label, row, stages, peak, names, point) {
  const actions = video.truth.filter((action) => action[0] === label).map(([, start, end]) => [start, Math.min(end, video.seconds)]);
  const steps = stages.map((stage) => ({ ...stage, ...video.scores[stage.key], scores: video.scores[stage.key].rows[row] }));
  const finest = steps.length ? steps.reduce((a, b) => (b.step < a.step ? b : a)) : { step: video.seconds / 50, scores: Array(50).fill(null) };
  const times = finest.scores.map((_, index) => index * finest.step);
  const truth = actions.map(([start, end]) => zone(start / video.seconds, end / video.seconds));
  const reading = {
    label: `${names[label]} in ${video.id}`, times,
    read: (index) => ({
      title: names[label],
      lines: [
        ["time", seconds(times[index])],
        ["ground truth", truthAt(actions, times[index])],
        ...steps.map((one) => [one.title, scoreAt(one, times[index])]).reverse(),
      ],
    }),
  };
  const drawn = steps.map((one) => {
    const width = video.seconds / one.step;
    return stretched(width, 1, ...scoreSteps(one.scores, width, peak, one.key, filled(one.key, stages)));
  });
  const drawing = shape("svg", {}, ...truth.map(([ground]) => ground), ...drawn, ...truth.map(([, foot]) => foot));
  return trackOf(row ? "row" : "row first", video, point, reading, drawing);
}

// The score at a time, and the number of its frame if only the official frames are scored.
function scoreAt({ step, scores, at }, time) {
  const index = Math.min(scores.length - 1, Math.floor(time / step + 1e-6));
  return at.startsWith("the") ? `${decimal(scores[index])}, frame ${index + 1} of ${scores.length}` : decimal(scores[index]);
}

function truthAt(actions, time) {
  const action = actions.find(([start, end]) => start <= time && time <= end);
  return action ? `${action[0].toFixed(2)} to ${seconds(action[1])}` : "absent";
}

// A ground truth interval: a light background with a dark bar at the bottom.
function zone(from, to) {
  const x = share(from);
  const width = share(Math.max(0, to - from));
  return [shape("rect", { class: "zone", x, width, y: 0, height: "100%" }), shape("rect", { class: "zone-edge", x, width, y: "calc(100% - 3px)", height: 3 })];
}

// The scores as steps, each from its own time to the next, with gaps for frames without predictions.
// `width` is the length of the video in steps.
function scoreSteps(scores, width, peak, key, fill) {
  const height = (score) => (1 - Math.max(0, score) / peak).toFixed(4);
  let line = "";
  let area = "";
  scores.forEach((score, frame) => {
    if (score === null || frame >= width) return;
    const joined = frame && scores[frame - 1] !== null;
    const end = Math.min(frame + 1, width);
    line += `${joined ? "V" : `M${frame} `}${height(score)}H${end}`;
    area += `M${frame} 1V${height(score)}H${end}V1Z`;
  });
  const drawn = [shape("path", { class: `line line-${key}`, d: line })];
  return fill ? [shape("path", { class: `area fill-${key}`, d: area }), ...drawn] : drawn;
}

// Highlights one coarse frame in all tracks that show it; by default the middle one.
function highlighter() {
  const groups = [];
  return {
    join: (nodes) => groups.push(nodes),
    show: (index) => groups.forEach((nodes) => nodes.forEach((node, place) => {
      const on = place === (index ?? Math.floor(nodes.length / 2));
      node.classList.toggle("on", on);
      if (on) node.parentNode.append(node);
    })),
  };
}

function chosenTrack(video, point, focus) {
  const times = video.chosen.map((place) => place[1]);
  const even = (times[times.length - 1] - times[0]) / Math.max(1, times.length - 1);
  const steps = times.slice(1).map((time, index) => time - times[index]);
  const densities = steps.map((step) => even / Math.max(step, 1e-6));
  const highest = Math.min(HIGHEST_DENSITY, Math.max(1, ...densities));
  const height = (density) => (0.95 * Math.min(density, highest)) / highest;
  const area = densities.map((density, index) => `H${times[index].toFixed(4)}V${(1 - height(density)).toFixed(4)}H${times[index + 1].toFixed(4)}`).join("");
  const marks = times.map((time) => shape("line", { class: "mark", x1: share(time / video.seconds), x2: share(time / video.seconds), y1: "55%", y2: "100%" }));
  focus.join(marks);
  const drawing = shape("svg", {}, stretched(video.seconds, 1, shape("path", { class: "density", d: `M${times[0].toFixed(4)} 1${area}V1Z` })), shape("g", {}, ...marks));
  const reading = {
    label: `Frames of ${video.id} selected by Grid Pool`, times, mark: focus.show,
    read: (index) => ({
      title: `Coarse frame ${index + 1} of ${times.length}`,
      lines: [
        [`video frame ${video.chosen[index][0]}`, seconds(times[index])],
        ...(index < steps.length ? [["step to the next", seconds(steps[index])], ["density", `${compact(densities[index])} \u00d7 even`]] : []),
      ],
    }),
  };
  return trackOf("chosen", video, point, reading, drawing);
}

function weightsTrack(video, point, focus) {
  const { times, centres, values } = video.weights;
  const curves = values.map((weights) => {
    const top = weights.map((weight, t) => `${t ? "L" : "M"}${times[t].toFixed(3)} ${(1 - 0.96 * weight).toFixed(3)}`).join("");
    return shape("path", { class: "gauss", d: top });
  });
  focus.join(curves);
  const step = times.length > 1 ? times[1] - times[0] : 0;
  const seen = [times[0], times[times.length - 1] + step];
  const outside = [[0, seen[0]], [seen[1], video.seconds]].filter(([from, to]) => to - from > step);
  const drawing = shape("svg", {},
    ...outside.map(([from, to]) => shape("rect", { class: "unseen", x: share(from / video.seconds), width: share((to - from) / video.seconds), y: 0, height: "100%" })),
    stretched(video.seconds, 1, ...curves));
  const order = centres.map((_, index) => index);
  const reading = {
    label: `Gaussian weights of ${video.id}`, times: order.map((index) => Math.min(centres[index], video.seconds)), mark: focus.show,
    read: (index) => ({
      title: `Coarse frame ${index + 1} of ${centres.length}`,
      lines: [["centre", seconds(centres[index])], ["weight above \u00bd within", `\u00b1${seconds(video.weights.sigma * Math.sqrt(2 * Math.log(2)))}`]],
    }),
  };
  return trackOf("weights", video, point, reading, drawing);
}
