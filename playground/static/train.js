import { drawChart } from "./chart.js";
import { paintFrame } from "./frames.js";
import { $, addPart } from "./shell.js";

const MOST_DOTS = 1500;
const HEARD_MS = 700; // a screen reader hears a phase once it has stood so long
const STATES = { running: "under way", unfinished: "unfinished", done: "done", model: "saved model" };

let envs = [];
let shown = null; // the newest message about the run that is shown
let figures = []; // [step, mean return, loss]
let evaluations = []; // [step, mean, lowest, highest]
let dots = []; // [step, return] of episodes, thinned out
let stride = 1; // of the episodes, one in so many is a dot
let numEpisodes = 0;
let saving = null; // the model's name
let isPainting = false;
let hearing = 0;

const part = addPart("train", {
  onMessage,
  onOpen() {
    shown = shown && { ...shown, is_live: false };
    if (part.isShown) part.send("open");
    enable();
  },
  onHide: () => part.send("hide", { on: true }),
  onShow() {
    part.send("hide", { on: document.hidden });
    part.send("open");
    paint();
  },
});
addEventListener("resize", paint);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

document.addEventListener("visibilitychange", () => {
  if (part.isShown) part.send("hide", { on: document.hidden });
});

function onMessage(message, bytes) {
  if (message.type === "choices") setChoices(message);
  else if (message.type === "runs") showRuns(message.runs);
  else if (message.type === "course") showCourse(message);
  else if (message.type === "saved") showSaved(message);
  else if (message.type === "error") showError(message.text);
  else if (message.type === "stage") onStage(message);
  else if (message.type === "frame") onFrame(message, bytes);
  else if (message.type === "stage-trouble") $("train-agent").textContent = message.text;
}

// -- choices ----------------------------------------------------------------------------------------------------------

function setChoices({ envs: found, folder }) {
  $("train-folder").textContent = `All that is trained and saved here is written below ${folder}.`;
  if (!envs.length) {
    envs = found;
    $("train-env").replaceChildren(...envs.map(({ env, title }) => new Option(title, env)));
    setAlgorithms();
  }
  enable();
}

function setAlgorithms() {
  const { about, algorithms } = envs.find(({ env }) => env === $("train-env").value);
  $("train-about").textContent = about;
  $("train-algorithm").replaceChildren(...algorithms.map(({ name, title }) => new Option(title, name)));
  setSteps();
}

function setSteps() {
  const { algorithms } = envs.find(({ env }) => env === $("train-env").value);
  $("train-steps").value = algorithms.find(({ name }) => name === $("train-algorithm").value).steps;
  setName();
  paint();
}

function setName() {
  const title = $("train-env").selectedOptions[0].text.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  $("train-name").placeholder = `${title}-${$("train-algorithm").value}-${$("train-seed").value}`;
}

function enable() {
  const isLive = Boolean(shown && shown.is_live);
  for (const name of ["env", "algorithm", "steps", "seed", "name", "begin"]) $(`train-${name}`).disabled = isLive || !envs.length;
  $("train-stop").disabled = !isLive || shown.phase === "stopping" || shown.phase === "scoring";
  $("train-resume").disabled = isLive || !shown || !shown.can_resume;
  const hasNetwork = Boolean(shown) && (shown.best !== null || (!isLive && shown.step > 0));
  for (const name of ["model", "save-it"]) $(`train-${name}`).disabled = !hasNetwork;
  for (const button of $("train-runs").querySelectorAll("button")) button.disabled = isLive;
}

$("train-env").addEventListener("change", setAlgorithms);
$("train-algorithm").addEventListener("change", setSteps);
$("train-seed").addEventListener("input", setName);
$("train-form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask("begin", {
    env: $("train-env").value,
    algorithm: $("train-algorithm").value,
    steps: Number($("train-steps").value),
    seed: Number($("train-seed").value),
    name: $("train-name").value.trim(),
  });
});
$("train-stop").addEventListener("click", () => ask("stop"));
$("train-resume").addEventListener("click", () => ask("resume", { name: shown.name }));
$("train-save").addEventListener("submit", (event) => {
  event.preventDefault();
  saving = $("train-model").value.trim();
  $("train-saved-error").textContent = "";
  $("train-saved").textContent = "saving …";
  part.send("save", { run: shown.name, name: saving });
});

function ask(type, fields = {}) {
  $("train-error").textContent = "";
  if (type === "look" || type === "resume") $("train-phase").textContent = `Reading ${fields.name} …`;
  part.send(type, fields);
}

function showError(text) {
  if (saving !== null) {
    saving = null;
    $("train-saved").textContent = "";
    $("train-saved-error").textContent = text;
  } else {
    $("train-error").textContent = text;
    if (shown) showNumbers();
    else $("train-phase").textContent = "Choose an env and an algorithm, and press Train.";
  }
}

// -- the run ----------------------------------------------------------------------------------------------------------

function showCourse(message) {
  part.send("seen");
  const before = shown;
  shown = message;
  if (message.is_fresh) {
    [figures, evaluations, dots, stride, numEpisodes] = [[], [], [], 1, 0];
    if (!before || before.name !== message.name) {
      $("train-saved").replaceChildren();
      $("train-saved-error").textContent = "";
      $("train-model").value = `${message.name}-best`.slice(0, 64);
    }
    if (message.is_live) {
      $("train-name").value = "";
      if ($("train-now").getBoundingClientRect().top > innerHeight / 2) $("train-now").scrollIntoView();
    }
  }
  figures.push(...message.figures);
  evaluations.push(...message.evaluations);
  addDots(message.episodes);
  showNumbers();
  if (!before || before.phase !== message.phase || before.text !== message.text) hear();
  enable();
  paint();
}

function addDots(episodes) {
  for (const episode of episodes) {
    if (numEpisodes % stride === 0) dots.push(episode);
    numEpisodes += 1;
  }
  while (dots.length > MOST_DOTS) {
    dots = dots.filter((_, i) => i % 2 === 0);
    stride *= 2;
  }
}

function showNumbers() {
  const { name, title, algorithm, seed, phase, text, step, total, rate, remaining_s: left, epsilon, mean, best, command } = shown;
  $("train-now-title").textContent = `${title}, ${algorithm}, seed ${seed}: ${name}`;
  $("train-phase").textContent = `${text[0].toUpperCase()}${text.slice(1)}${shown.is_live ? " …" : "."}`;
  $("train-phase").className = phase === "failed" ? "failed" : "";
  $("train-progress").value = total ? Math.min(1, step / total) : 0;
  $("train-total").textContent = `steps of ${total.toLocaleString("en")}`;
  $("train-step").textContent = step.toLocaleString("en");
  $("train-rate").textContent = rate === null ? "–" : Number(rate.toPrecision(3)).toLocaleString("en");
  $("train-left").textContent = left === null ? "–" : duration(left);
  $("train-epsilon").textContent = epsilon === null ? "–" : `${(100 * epsilon).toFixed(epsilon < 0.1 ? 1 : 0)}%`;
  $("train-mean").textContent = mean === null ? "–" : shortReturn(mean);
  if (best === null) $("train-best").textContent = "–";
  else $("train-best").replaceChildren(shortReturn(best[0]), small(` at ${best[1].toLocaleString("en")}`));
  $("train-command").textContent = command;
}

function small(text) {
  const element = document.createElement("small");
  element.textContent = text;
  return element;
}

function shortReturn(value) {
  return Number(value.toFixed(1)).toLocaleString("en");
}

function duration(seconds) {
  const whole = Math.ceil(seconds);
  if (whole < 60) return `${whole} s`;
  return whole < 3600 ? `${Math.floor(whole / 60)} min ${whole % 60} s` : `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

function hear() {
  clearTimeout(hearing);
  hearing = setTimeout(() => { $("train-heard").textContent = $("train-phase").textContent; }, HEARD_MS);
}

function showSaved({ path, commands }) {
  saving = null;
  const text = document.createElement("span");
  text.textContent = `Saved in ${path}. Use it:`;
  $("train-saved").replaceChildren(text, ...commands.map((command) => {
    const code = document.createElement("code");
    code.textContent = command;
    return code;
  }));
}

// Paints before the next frame; a hidden page has none, and is painted when it is seen again.
function paint() {
  if (isPainting) return;
  isPainting = true;
  requestAnimationFrame(() => {
    isPainting = false;
    if (!part.isShown) return;
    const settings = { xLabel: "steps", right: shown ? shown.total : Number($("train-steps").value) || 1 };
    const points = evaluations.map(([step, mean]) => [step, mean]);
    drawChart($("train-returns"), [
      { points: dots, colour: "--episode", dots: true },
      { points: figures.map(([step, mean]) => [step, mean]), colour: "--accent" },
      { points, colour: "--evaluation" },
      { points, colour: "--evaluation", dots: true },
    ], settings);
    drawChart($("train-loss"), [{ points: figures.map(([step, , loss]) => [step, loss]) }], { ...settings, low: 0 });
    const last = evaluations.at(-1);
    $("train-returns").setAttribute("aria-label", last
      ? `Chart of returns: ${shortReturn(last[1])} in the evaluation at step ${last[0].toLocaleString("en")}` : "Chart of returns");
  });
}

// -- the agent --------------------------------------------------------------------------------------------------------

let stageStep = 0; // of the network that plays

function onStage({ step }) {
  stageStep = step;
}

async function onFrame({ serial, total, steps, over }, bytes) {
  await paintFrame($("train-screen"), bytes);
  part.send("frame-seen", { serial });
  $("train-screen").dataset.serial = serial;
  $("train-agent").textContent = `${over ? "over, return" : `step ${steps.toLocaleString("en")}, return`} ${shortReturn(total)} · the network of step ${stageStep.toLocaleString("en")}`;
}

// -- the folder -------------------------------------------------------------------------------------------------------

function showRuns(runs) {
  $("train-runs").replaceChildren(...runs.map((run) => {
    const row = document.createElement("li");
    const name = document.createElement("b");
    name.textContent = run.name;
    const about = document.createElement("p");
    const words = [`${run.title}${run.algorithm ? `, ${run.algorithm}` : ""}`, STATES[run.state]];
    if (run.state === "unfinished") words[1] += ` at ${run.step.toLocaleString("en")} of ${run.total.toLocaleString("en")}`;
    if (typeof run.score === "number") words[1] += `: ${shortReturn(run.score)}`;
    about.textContent = words.join(" · ");
    const tools = document.createElement("div");
    tools.className = "tools";
    if (run.state === "unfinished") tools.append(tool("Go on", run, "resume"));
    if (run.state === "unfinished" || run.state === "done") tools.append(tool("Show", run, "look"));
    row.append(name, about, tools);
    return row;
  }));
  if (!runs.length) {
    const none = document.createElement("p");
    none.textContent = "Nothing yet.";
    const row = document.createElement("li");
    row.append(none);
    $("train-runs").append(row);
  }
  enable();
}

function tool(text, { name }, type) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.setAttribute("aria-label", `${text}: ${name}`);
  button.addEventListener("click", () => ask(type, { name }));
  return button;
}
