import { drawChart, shortNumber } from "./chart.js";
import { paintFrame } from "./frames.js";
import { Pad } from "./pad.js";
import { $, addPart } from "./shell.js";

const COURSE = 300; // steps of the chart
const WINDOW = 150; // frames whose values make the bars' scale
const HEARD_MS = 4000;
const RANDOM = "";

let repertoire = { games: [], policies: [] };
let playing = null; // {game, model, actions, idle}, once a game has begun
let isWanted = false; // the visitor has been here, so a game goes on
let recent = []; // values of the last frames
let course = []; // [step, best value] of the last frames
let frames = 0;
let range = null; // of the histograms
let heardAt = 0;

const part = addPart("play", {
  onMessage,
  onOpen() {
    playing = null;
  },
  onShow() {
    if (!isWanted && repertoire.games.length) begin();
    part.send("hide", { on: false });
  },
  onHide: () => part.send("hide", { on: true }),
});
document.addEventListener("visibilitychange", () => {
  if (part.isShown) part.send("hide", { on: document.hidden });
});
const pad = new Pad($("play-pad"), $("play-screen"), (action) => part.send("press", { action }));

// -- choices ----------------------------------------------------------------------------------------------------------

function setRepertoire({ games, policies }) {
  repertoire = { games, policies };
  $("play-game").replaceChildren(...games.map(({ id, title }) => new Option(title, id)));
  if (policies.length) $("play-game").value = policies[0].game;
  $("play-game").disabled = $("play-model").disabled = false;
  setPlayers();
  if (part.isShown || isWanted) begin();
}

function setPlayers() {
  const game = $("play-game").value;
  const fit = repertoire.policies.filter((policy) => policy.game === game);
  const options = fit.map(({ name, algorithm }) => new Option(algorithm ? `${name} (${algorithm})` : name, name));
  if (repertoire.games.find(({ id }) => id === game).plain) options.push(new Option("random moves", RANDOM));
  $("play-model").replaceChildren(...options);
}

function begin() {
  isWanted = true;
  playing = null;
  note("the game is made ready …");
  part.send("start", { game: $("play-game").value, model: $("play-model").value || null });
}

$("play-game").addEventListener("change", () => {
  setPlayers();
  begin();
});
$("play-model").addEventListener("change", begin);

// -- controls ---------------------------------------------------------------------------------------------------------

function toggle(id, on) {
  $(id).setAttribute("aria-pressed", String(on));
}

const isOn = (id) => $(id).getAttribute("aria-pressed") === "true";
const speed = () => 2 ** Number($("play-speed").value);

function pause(on) {
  toggle("play-pause", on);
  $("play-pause").textContent = on ? "Go on" : "Pause";
  part.send("pause", { on });
}

function takeOver(on) {
  toggle("play-hand", on);
  $("play-hand").textContent = on ? "Hand back" : "Take over";
  $("play-pad").hidden = $("play-keys").hidden = !on;
  part.send("hand", { on });
  pad.listen(on);
  if (on) {
    $("play-screen").focus({ preventScroll: true });
    if (isOn("play-pause")) pause(false);
  }
}

$("play-pause").addEventListener("click", () => pause(!isOn("play-pause")));
$("play-step").addEventListener("click", () => {
  if (!isOn("play-pause")) pause(true);
  part.send("step");
});
$("play-again").addEventListener("click", () => part.send("again"));
$("play-hand").addEventListener("click", () => takeOver(!isOn("play-hand")));
$("play-speed").addEventListener("input", setSpeed);
$("play-epsilon").addEventListener("input", setEpsilon);

function setSpeed() {
  const factor = speed();
  $("play-speed-is").textContent = factor < 1 ? `1/${1 / factor}×` : `${factor}×`;
  part.send("speed", { speed: factor });
}

function setEpsilon() {
  $("play-epsilon-is").textContent = `${Math.round(100 * Number($("play-epsilon").value))}%`;
  part.send("epsilon", { epsilon: Number($("play-epsilon").value) });
}

// -- the game ---------------------------------------------------------------------------------------------------------

function onMessage(message, bytes) {
  if (message.type === "repertoire") setRepertoire(message);
  else if (message.type === "began") onBegin(message);
  else if (message.type === "frame") onFrame(message, bytes);
  else note(message.text, true);
}

function onBegin(message) {
  playing = { ...message, title: $("play-game").selectedOptions[0].text };
  recent = [];
  course = [];
  frames = 0;
  range = null;
  note("");
  pad.setActions(message.actions, message.idle);
  $("play-keys").textContent = pad.help;
  $("play-epsilon").disabled = !message.has_policy;
  $("play-course").closest("section").hidden = $("play-scale").hidden = !message.has_policy;
  $("play-expects-title").textContent = message.has_policy ? "What the network expects of each action" : "Actions";
  $("play-actions").replaceChildren(...message.actions.map((name) => {
    const row = document.createElement("li");
    const [label, track, value] = ["span", "span", "span"].map((kind) => document.createElement(kind));
    label.textContent = label.title = readable(name);
    track.className = "track";
    track.append(document.createElement("i"));
    row.append(label, track, value);
    return row;
  }));
  setSpeed();
  setEpsilon();
  part.send("pause", { on: isOn("play-pause") });
  takeOver(isOn("play-hand"));
}

const readable = (name) => name.toLowerCase().replace("noop", "nothing")
  .replace(/^(up|down)(?=left|right|fire)/, "$1 ").replace(/(left|right)(?=fire)/, "$1 ");

async function onFrame(message, bytes) {
  const game = playing;
  if (game === null) return;
  if (!(await paintFrame($("play-screen"), bytes, () => playing === game))) return; // another was chosen meanwhile
  part.send("seen", { serial: message.serial });
  $("play-screen").dataset.serial = message.serial;
  showTally(message);
  showActions(message);
  note(message.over ? `the episode is over: ${number(message.total)}` : hint(message));
}

function hint({ by, pressed }) {
  if (isOn("play-hand") && pressed === null && playing.idle === null) return "your move: it waits for a key";
  return by === "chance" && playing.has_policy && !isOn("play-hand") ? "by chance" : "";
}

function showTally({ total, steps, episode, finished, rate, over }) {
  $("play-total").textContent = number(total);
  const [count, sum] = [finished.length, finished.reduce((a, b) => a + b, 0)];
  const mean = count > 1 ? ` · mean of the last ${count}: ${number(sum / count)}` : count ? ` · the last one: ${number(sum)}` : "";
  $("play-tally").textContent = `episode ${episode}, step ${steps.toLocaleString("en")} · ${rate.toFixed(0)} steps/s${mean}`;
  if (over || performance.now() - heardAt > HEARD_MS * 3) {
    heardAt = performance.now();
    $("play-heard").textContent = `${over ? "Episode over. " : ""}Return ${number(total)}.`;
  }
}

function showActions({ values, action, by, pressed, returns, over }) {
  const rows = $("play-actions").children;
  const taken = isOn("play-hand") ? pressed : action;
  for (let i = 0; i < rows.length; i++) {
    rows[i].classList.toggle("taken", i === taken);
    rows[i].classList.toggle("chance", i === taken && by === "chance" && !isOn("play-hand"));
  }
  if (values === null || over) return;
  frames += 1;
  recent.push(values);
  if (recent.length > WINDOW) recent.shift();
  const all = recent.flat().filter(Number.isFinite);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  for (let i = 0; i < rows.length; i++) {
    rows[i].lastChild.textContent = values[i] === null ? "not finite" : signed(values[i]);
    if (returns === null) rows[i].children[1].firstChild.style.width = `${high > low ? (100 * (values[i] - low)) / (high - low) : 50}%`;
    else paintReturns(histogramOf(rows[i]), returns, i, values[i]);
  }
  $("play-scale").textContent = returns === null
    ? `Bars go from ${signed(low)} to ${signed(high)}: the values of the last ${recent.length} frames. A value is the discounted return that the network expects.`
    : `Distributions of the discounted return, from ${signed(returns.low)} to ${signed(returns.high)}; the line is the mean, by which actions are chosen.`;
  const best = Math.max(...values.filter(Number.isFinite));
  course.push([frames, best]);
  if (course.length > COURSE) course.shift();
  const first = course[0][0];
  drawChart($("play-course"), [{ points: course.map(([x, y]) => [x - first, y]) }], { xLabel: "frames" });
}

function histogramOf(row) {
  const track = row.children[1];
  if (track.firstChild.tagName !== "CANVAS") {
    track.className = "";
    track.replaceChildren(document.createElement("canvas"));
  }
  return track.firstChild;
}

function paintReturns(canvas, { low, high, rows }, action, mean) {
  const box = canvas.getBoundingClientRect();
  const [width, height] = [Math.round(box.width * devicePixelRatio), Math.round(box.height * devicePixelRatio)];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const most = Math.max(...rows.flat());
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  pen.clearRect(0, 0, width, height);
  pen.fillStyle = style.getPropertyValue("--accent");
  const bins = rows[action];
  bins.forEach((share, i) => {
    const top = height * (1 - share / most);
    pen.fillRect((i * width) / bins.length, top, Math.max(1, width / bins.length - devicePixelRatio / 2), height - top);
  });
  pen.fillStyle = style.getPropertyValue("--line");
  pen.fillRect(0, height - 1, width, 1);
  if (mean === null) return;
  pen.fillStyle = style.getPropertyValue("--ink");
  pen.fillRect(((mean - low) / (high - low)) * width - devicePixelRatio / 2, 0, 1.5 * devicePixelRatio, height);
}

function note(text, isFailure = false) {
  if ($("play-note").textContent !== text) $("play-note").textContent = text;
  $("play-note").classList.toggle("failed", isFailure);
}

function number(value) {
  return Number.isInteger(value) ? value.toLocaleString("en") : value.toFixed(Math.abs(value) < 10 ? 2 : 1);
}

function signed(value) {
  return (Math.abs(value) < 1000 ? value.toFixed(Math.abs(value) < 10 ? 2 : 1) : shortNumber(value)).replace("-", "−");
}
