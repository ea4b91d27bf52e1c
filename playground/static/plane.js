import { drawChart } from "./chart.js";
import { PlaneNetwork, SMALL, paintClass, paintMap } from "./plane-network.js";
import { PlaneSheet, interpolated } from "./plane-sheet.js";
import { $, addPart } from "./shell.js";

const FIRST_SET = "circles";
const MOST_LAYERS = 4;
const WIDTH = 8; // of a new layer
const CURVE = 500; // points of the loss curve; beyond, every second one is left out
const MOST_LOSS = 1e5; // on the curve
const HEARD_MS = 4000; // between what a screen reader hears of the training
const CELLS = 60 * 60;
const GETTING_READY = "Getting ready …";

const hidden = [8, 8];
let hasSet = false; // a ready set has come
let hasBegun = false; // the playground has this tab's network, in this connection
let number = 0; // of the newest training
let numClasses = 2; // of its network
let isTraining = false;
let curve = []; // [step, loss]
let looked = { layer: 0, unit: 0 }; // unit that is looked at; the layer after the hidden ones is the output
let newest = null; // snapshot that is yet to be painted
let shownSnapshot = null; // the last that was painted
let isDue = false; // points have changed since the last message
let heardAt = 0;

const part = addPart("plane", {
  onMessage,
  onOpen() {
    newest = null;
    hasBegun = false;
    setTraining(false);
    part.send("speed", { speed: $("plane-speed").value });
    if (part.isShown) enter();
  },
  onShow: enter,
});
const sheet = new PlaneSheet($("plane-sheet"), {
  onChange: pointsChanged,
  onCross(text) { $("plane-cross").textContent = text; },
  onFull() { tell("2,000 points are the most: erase some first"); },
});
const network = new PlaneNetwork($("plane-layers"), {
  onWidth(layer, units) {
    hidden[layer] = units;
    begin();
  },
  onUnit(layer, unit) {
    if (looked !== null && looked.layer === layer && looked.unit === unit) closeUnit();
    else {
      look(layer, unit);
      $("plane-unit").scrollIntoView({ block: "nearest" });
    }
  },
});

// -- points -----------------------------------------------------------------------------------------------------------

for (const button of $("plane-sets").querySelectorAll("button")) {
  button.addEventListener("click", () => part.send("set", { name: button.dataset.set }));
}
const classes = [...$("plane-classes").querySelectorAll("button")];
classes.forEach((button, kind) => button.addEventListener("click", () => choose(kind)));
$("plane-eraser").addEventListener("click", () => choose("eraser"));
$("plane-clear").addEventListener("click", () => {
  sheet.points = [];
  sheet.paint();
  pointsChanged();
});

function choose(tool) {
  sheet.tool = tool;
  classes.forEach((button, kind) => button.setAttribute("aria-pressed", String(kind === tool)));
  $("plane-eraser").setAttribute("aria-pressed", String(tool === "eraser"));
}

// Sends the points once a frame; a class that the network does not know yet needs a new one.
function pointsChanged() {
  markSet(null);
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    if (sheet.numClasses > numClasses) begin();
    else part.send("points", {}, sheet.bytes());
    if (sheet.points.length === 0) tell("No points: place some, or choose a ready set.");
    else if ($("plane-told").textContent.startsWith("No points")) tell("");
  });
}

function markSet(name) {
  for (const button of $("plane-sets").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.set === name));
  }
}

// -- training ---------------------------------------------------------------------------------------------------------

// Goes to this part: the first time with a ready set, after a broken connection with the points that there are.
function enter() {
  if (!part.isOpen) return;
  if (!hasSet) part.send("set", { name: FIRST_SET });
  else if (!hasBegun) begin();
  else requestAnimationFrame(paint);
  network.measure();
}

function settings() {
  return {
    hidden,
    activation: $("plane-activation").value,
    optimizer: $("plane-optimizer").value,
    learning_rate: Number($("plane-rate").value),
    regularisation: $("plane-regularisation").value,
    strength: Number($("plane-strength").value),
    batch_size: Number($("plane-batch").value),
    num_classes: numClasses,
    seed: Number($("plane-seed").value),
  };
}

// Starts again: new weights of the seed, step 0.
function begin() {
  numClasses = sheet.numClasses;
  number += 1;
  curve = [];
  $("plane-depth").textContent = hidden.length;
  $("plane-fewer").disabled = hidden.length === 0;
  $("plane-more").disabled = hidden.length === MOST_LAYERS;
  $("plane-activation").disabled = hidden.length === 0;
  const dropout = $("plane-regularisation").querySelector("[value=dropout]");
  dropout.disabled = hidden.length === 0;
  if (dropout.disabled && dropout.selected) setRegularisation("none");
  network.build(hidden, numClasses);
  explain();
  tell(!sheet.points.length ? "No points: place some, or choose a ready set." : shownSnapshot === null ? GETTING_READY : "");
  part.send("begin", { number, ...settings() }, sheet.bytes());
  hasBegun = part.isOpen;
  if (looked !== null) look(looked.layer, looked.unit);
}

function setTraining(value) {
  isTraining = value;
  $("plane-train").textContent = value ? "Pause" : "Train";
  $("plane-train").setAttribute("aria-pressed", String(value));
}

$("plane-train").addEventListener("click", () => {
  setTraining(!isTraining);
  part.send("train", { on: isTraining });
  if (!isTraining) hear(true);
});
$("plane-step").addEventListener("click", () => part.send("step"));
$("plane-again").addEventListener("click", begin);
$("plane-speed").addEventListener("change", ({ target }) => part.send("speed", { speed: target.value }));
$("plane-seed").addEventListener("change", ({ target }) => {
  target.value = Math.max(0, Math.min(999999, Math.round(Number(target.value)) || 0));
  begin();
});
for (const [id, by] of [["plane-fewer", -1], ["plane-more", 1]]) {
  $(id).addEventListener("click", () => {
    if (by > 0) hidden.push(hidden.at(-1) ?? WIDTH);
    else hidden.pop();
    begin();
  });
}
for (const id of ["plane-activation", "plane-rate", "plane-batch", "plane-strength"]) $(id).addEventListener("change", begin);
$("plane-optimizer").addEventListener("change", ({ target }) => {
  $("plane-rate").value = target.selectedOptions[0].dataset.rate;
  if (target.value !== "adamw" && $("plane-regularisation").value === "weight_decay") setRegularisation("none");
  begin();
});
$("plane-regularisation").addEventListener("change", ({ target }) => {
  setRegularisation(target.value);
  begin();
});

// Chooses a regularisation, and fills in its strengths; weight decay is AdamW's.
function setRegularisation(name) {
  $("plane-regularisation").value = name;
  const words = ($("plane-regularisation").selectedOptions[0].dataset.strengths ?? "0").split(" ");
  $("plane-strength").replaceChildren(...words.map((word) => new Option(word.replace("*", ""), word.replace("*", ""), false, word[0] === "*")));
  $("plane-strength").disabled = name === "none";
  if (name === "weight_decay") $("plane-optimizer").value = "adamw";
}

function explain() {
  const activation = $("plane-activation").value;
  $("plane-network-note").textContent = hidden.length === 0
    ? `Without hidden layers this is ${numClasses === 2 ? "one neuron: logistic regression" : "one neuron for each class: softmax regression"}. `
      + "Its borders are straight lines; XOR, circles and spirals need a hidden layer."
    : activation === "identity"
      ? "With the identity, any number of layers computes no more than one: the borders stay straight lines."
      : "Each picture shows a unit’s activation at every point of the plane: blue below 0, orange above. "
        + "Lines are weights, thick where they are large. Click a unit for its formula.";
}

// -- answers ----------------------------------------------------------------------------------------------------------

function onMessage(message, bytes) {
  if (message.type === "snapshot") {
    newest = { message, bytes };
    if (part.isShown) requestAnimationFrame(paint);
  } else if (message.type === "set") {
    hasSet = true;
    sheet.take(bytes);
    markSet(message.name);
    begin();
  } else if (message.type === "trouble") {
    setTraining(false);
    tell(message.text, true);
  } else if (message.type === "error") {
    tell(message.text, true);
  }
}

// Paints the newest snapshot, and asks for the next one. What is not seen is not answered, and the training then waits.
function paint() {
  if (newest === null || !part.isShown) return;
  const { message, bytes } = newest;
  newest = null;
  part.send("seen", { serial: message.serial });
  if (message.number !== number) return; // of a network that is no more
  const units = message.hidden.reduce((a, b) => a + b, 0);
  const sizes = [message.num_classes * CELLS, units * SMALL * SMALL, message.looked ? CELLS : 0, 4 * units];
  const [first, second, third, fourth] = sizes.map((_, i) => sizes.slice(0, i + 1).reduce((a, b) => a + b));
  const floats = (from, to) => new Float32Array(bytes.slice(from, to).buffer);
  shownSnapshot = {
    message,
    surface: bytes.subarray(0, first),
    maps: bytes.subarray(first, second),
    large: bytes.subarray(second, third),
    scales: floats(third, fourth),
    weights: floats(fourth),
  };
  if ($("plane-told").textContent === GETTING_READY) tell("");
  addToCurve(message);
  paintSnapshot();
  hear();
}

function paintSnapshot() {
  const { message, surface, maps, large, weights } = shownSnapshot;
  sheet.setSurface(surface, message.num_classes);
  network.paint({ maps, surface, weights });
  $("plane-loss").textContent = message.loss === null ? "–" : shortLoss(message.loss);
  $("plane-accuracy").textContent = message.accuracy === null ? "–" : `${(100 * message.accuracy).toFixed(1)}%`;
  $("plane-steps").textContent = message.step.toLocaleString("en");
  drawChart($("plane-chart"), [{ points: curve }], { xLabel: "steps", low: 0 });
  paintUnit();
}

function paintUnit() {
  if (looked === null || shownSnapshot === null || shownSnapshot.message.number !== number) return;
  const { message, surface, large } = shownSnapshot;
  const { layer, unit } = looked;
  if (layer === message.hidden.length) {
    const isBinary = message.num_classes === 2;
    const kind = isBinary ? 1 : unit;
    const probabilities = interpolated(surface.subarray(kind * CELLS, (kind + 1) * CELLS), 60);
    if (isBinary) paintMap($("plane-unit-map"), probabilities, 240);
    else paintClass($("plane-unit-map"), probabilities, 240, kind);
    $("plane-formula").textContent = `P(${"ABCD"[kind]}) ${network.formula(layer, unit, isBinary ? "= sigmoid" : "∝ exp")}`;
    $("plane-scale").textContent = isBinary ? "Full blue is a probability of 0, full orange of 1." : "The full colour is a probability of 1.";
  } else if (message.looked && message.looked[0] === layer && message.looked[1] === unit) {
    paintMap($("plane-unit-map"), interpolated(large, 60), 240);
    $("plane-formula").textContent = network.formula(layer, unit, $("plane-activation").selectedOptions[0].textContent);
    const size = message.looked_scale.toPrecision(2);
    $("plane-scale").textContent = `Full blue is −${size}, full orange ${size}.`;
  } else return;
  if (layer > 0) $("plane-scale").textContent += ` h₁, h₂, … are the units of layer ${layer}.`;
}

function addToCurve({ step, loss }) {
  if (loss === null || loss > MOST_LOSS) return;
  if (curve.length && curve.at(-1)[0] === step) curve.at(-1)[1] = loss;
  else curve.push([step, loss]);
  if (curve.length > CURVE) curve = curve.filter((_, i) => i % 2 === 0);
}

function shortLoss(loss) {
  return loss >= 1e4 ? loss.toExponential(1) : loss >= 100 ? loss.toFixed(0) : loss >= 10 ? loss.toFixed(1) : loss >= 0.01 ? loss.toFixed(3) : loss.toFixed(4);
}

function tell(text, isFailure = false) {
  $("plane-told").textContent = text;
  $("plane-told").classList.toggle("failed", isFailure);
}

// A screen reader hears how it goes, now and then while it trains, and when it is paused.
function hear(isNow = false) {
  if (shownSnapshot === null || (!isNow && (!isTraining || Date.now() - heardAt < HEARD_MS))) return;
  const { loss, accuracy, step } = shownSnapshot.message;
  if (loss === null) return;
  heardAt = Date.now();
  $("plane-heard").textContent = `step ${step}: loss ${shortLoss(loss)}, accuracy ${(100 * accuracy).toFixed(0)}%`;
}

// -- a unit -----------------------------------------------------------------------------------------------------------

function look(layer, unit) {
  const place = Math.min(layer, hidden.length);
  const isOutput = place === hidden.length;
  const count = isOutput ? (numClasses === 2 ? 1 : numClasses) : hidden[place];
  looked = { layer: place, unit: place === layer ? (unit + count) % count : 0 };
  const kind = "ABCD"[numClasses === 2 ? 1 : looked.unit];
  $("plane-unit").hidden = false;
  $("plane-unit-title").textContent = isOutput ? `Output: the probability of class ${kind}` : `Unit ${looked.unit + 1} of layer ${place + 1}`;
  network.mark(looked);
  part.send("look", isOutput ? { layer: null } : looked);
  paintUnit();
}

function closeUnit() {
  looked = null;
  $("plane-unit").hidden = true;
  network.mark(null);
  part.send("look", { layer: null });
}

$("plane-unit-before").addEventListener("click", () => look(looked.layer, looked.unit - 1));
$("plane-unit-after").addEventListener("click", () => look(looked.layer, looked.unit + 1));
$("plane-unit-close").addEventListener("click", closeUnit);

// -- the screen -------------------------------------------------------------------------------------------------------

function repaint() {
  if (!part.isShown) return;
  network.measure();
  if (shownSnapshot !== null && shownSnapshot.message.number === number) paintSnapshot();
  else sheet.paint();
}

new ResizeObserver(repaint).observe($("plane"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  network.columns[0]?.forEach((tile, axis) => network.paintInput(tile.firstChild, axis));
  repaint();
});
