import { paintPlate, paintImage, paintWeights, unitAt } from "./plates.js";
import { Sheet } from "./sheet.js";
import { $, addPart, say } from "./shell.js";

const NOTHING = "nothing drawn yet";
const HEARD_MS = 700; // a screen reader hears a guess once it has stood so long

let models = [];
let serial = 0; // of the newest drawing
let answered = 0; // of the newest guess that is shown
let isDue = false; // the sheet has changed since the last message
let isWaiting = false; // a guess is on its way
let hearing = 0;

const part = addPart("draw", {
  onMessage,
  onOpen() {
    isWaiting = false;
    ask();
  },
});
const sheet = new Sheet($("canvas"), () => {
  $("hint").hidden = !sheet.isEmpty;
  ask();
});

// -- drawing ----------------------------------------------------------------------------------------------------------

function ask() {
  isDue = true;
  pump();
}

// Sends the sheet as it is now, unless a guess is on its way: what changes meanwhile is sent when that has come.
function pump() {
  if (!isDue || isWaiting || !models.length || !part.isOpen) return;
  isDue = false;
  serial += 1;
  if (sheet.isEmpty) {
    showNothing();
    return;
  }
  isWaiting = true;
  part.send("drawing", { serial, model: $("model").value, hidden: hiddenLayers() }, sheet.bytes());
}

for (const [id, isEraser] of [["brush", false], ["eraser", true]]) {
  $(id).addEventListener("click", () => {
    sheet.isEraser = isEraser;
    $("brush").setAttribute("aria-pressed", String(!isEraser));
    $("eraser").setAttribute("aria-pressed", String(isEraser));
  });
}
$("undo").addEventListener("click", () => sheet.undo());
$("clear").addEventListener("click", () => sheet.clear());
$("thickness").addEventListener("input", ({ target }) => { sheet.width = Number(target.value); });
$("model").addEventListener("change", () => {
  showModel();
  ask();
});
$("file").addEventListener("change", ({ target }) => {
  if (target.files.length) takeFile(target.files[0]);
  target.value = "";
});
for (const kind of ["dragover", "drop", "dragleave"]) {
  $("sheet").addEventListener(kind, (event) => {
    event.preventDefault();
    $("sheet").classList.toggle("drop", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) takeFile(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  if (part.isShown && event.clipboardData.files.length) takeFile(event.clipboardData.files[0]);
});

async function takeFile(file) {
  try {
    await sheet.take(file);
  } catch {
    showError(`${file.name} is no image that can be read: give a PNG or a JPEG`);
  }
}

// -- answers ----------------------------------------------------------------------------------------------------------

function onMessage(message, bytes) {
  if (message.type === "models") {
    setModels(message.models);
  } else if (message.type === "pictures") {
    if (message.serial >= answered && !sheet.isEmpty) showPictures(message.plates, bytes);
  } else if (message.type === "unit") {
    showUnit(message, bytes);
  } else if (message.type === "no-unit") {
    $("unit-note").textContent = message.text;
  } else {
    if (!(message.serial < serial)) isWaiting = false;
    if (message.type === "guess" && !sheet.isEmpty) showGuess(message);
    else if (message.type === "blank") showNothing();
    else if (message.type === "error") showError(message.text);
    pump();
  }
}

function setModels(found) {
  models = found;
  $("model").replaceChildren(...found.map(({ name }) => new Option(name, name)));
  $("model").disabled = found.length < 2;
  if (!found.length) {
    say("the server has no classifier of images", true);
    return;
  }
  say("ready");
  showModel();
  ask();
}

function showModel() {
  const { inside, labels } = models.find(({ name }) => name === $("model").value);
  const digits = labels.length === 10 && labels.every((label, i) => label === String(i));
  $("hint").textContent = digits ? "draw a digit here, or drop an image" : "draw here, or drop an image";
  $("inside-note").textContent = inside
    ? "Each layer’s activations, from the input to the output. Bright is strong. Click a unit to see what it looks for."
    : "The network’s directory is not on this machine’s command line: torso playground DIR --address …";
  $("layers").replaceChildren();
  closeUnit();
}

function showGuess({ serial: number, ranking }) {
  answered = number;
  const [first, second] = ranking;
  const sure = first.probability;
  const doubt = sure >= 0.9 ? "" : sure >= 0.6 ? "probably " : "hard to say: ";
  const after = second && second.probability >= 0.02 ? `else ${second.label}, ${percent(second.probability)}` : "";
  const label = document.createElement("b");
  label.textContent = first.label;
  const small = document.createElement("small");
  small.textContent = [percent(sure), after].filter(Boolean).join(" · ");
  $("guess").className = "";
  $("guess").replaceChildren(doubt, label, small);
  const order = models.find(({ name }) => name === $("model").value).labels;
  const rows = [...ranking].sort((a, b) => order.indexOf(a.label) - order.indexOf(b.label));
  showBars(rows);
  hear(`${doubt}${first.label}, ${percent(sure)}${after ? `, ${after}` : ""}`);
}

function showBars(rows) {
  const bars = $("bars");
  while (bars.children.length > rows.length) bars.lastChild.remove();
  rows.forEach(({ label, probability }, i) => {
    let row = bars.children[i];
    if (!row) {
      row = document.createElement("li");
      const track = document.createElement("span");
      track.className = "track";
      track.append(document.createElement("i"));
      row.append(document.createElement("span"), track, document.createElement("span"));
      bars.append(row);
    }
    row.firstChild.textContent = label;
    row.children[1].firstChild.style.width = `${100 * probability}%`;
    row.lastChild.textContent = percent(probability);
  });
}

function showNothing() {
  answered = serial;
  $("guess").className = "nothing";
  $("guess").textContent = NOTHING;
  showBars([...$("bars").children].map((row) => ({ label: row.firstChild.textContent, probability: 0 })));
  $("input").getContext("2d").clearRect(0, 0, $("input").width, $("input").height);
  for (const canvas of $("layers").querySelectorAll("canvas")) canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  hear(NOTHING);
}

function showError(text) {
  $("guess").className = "error";
  $("guess").textContent = text;
  hear(text);
}

function hear(text) {
  clearTimeout(hearing);
  hearing = setTimeout(() => { if ($("heard").textContent !== text) $("heard").textContent = text; }, HEARD_MS);
}

function percent(probability) {
  return probability >= 0.9995 ? "100%" : probability < 0.001 ? "0%" : `${(100 * probability).toFixed(probability < 0.1 ? 1 : 0)}%`;
}

// -- layers -----------------------------------------------------------------------------------------------------------

function hiddenLayers() {
  return [...$("layers").children].filter((layer) => !layer.open).map((layer) => layer.dataset.name);
}

function showPictures(plates, bytes) {
  let start = 0;
  for (const plate of plates) {
    const size = plate.shape.reduce((a, b) => a * b);
    const pixels = bytes.subarray(start, start + size);
    start += size;
    if (plate.name === "input") paintImage($("input"), plate, pixels);
    else if (size) paintPlate(layerOf(plate).querySelector("canvas"), plate, pixels);
    else layerOf(plate);
  }
}

function layerOf({ name, shape: [shown, height, width], units }) {
  const found = [...$("layers").children].find((layer) => layer.dataset.name === name);
  if (found) return found;
  const layer = document.createElement("details");
  layer.open = true;
  layer.dataset.name = name;
  const summary = document.createElement("summary");
  const note = document.createElement("span");
  const size = height * width > 1 ? `${units} maps of ${height} × ${width}` : `${units} units`;
  note.textContent = ` ${size}${shown < units ? `, ${shown} shown` : ""}`;
  summary.append(name, note);
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Activations of ${name}`);
  canvas.addEventListener("click", (event) => {
    const unit = unitAt(canvas, event);
    if (unit !== null) askUnit(name, unit, units);
  });
  const look = document.createElement("button");
  look.type = "button";
  look.textContent = "Units of this layer";
  look.addEventListener("click", () => askUnit(name, 0, units));
  layer.append(summary, canvas, look);
  layer.addEventListener("toggle", () => { if (layer.open) ask(); });
  $("layers").append(layer);
  return layer;
}

// -- a unit -----------------------------------------------------------------------------------------------------------

let looked = null; // {layer, unit, count} that is looked at

function askUnit(layer, unit, count) {
  looked = { layer, unit: (unit + count) % count, count };
  $("unit").hidden = false;
  $("unit-title").textContent = `Unit ${looked.unit} of ${layer}, of ${count}`;
  $("unit-note").textContent = "looking for what excites it …";
  $("unit").scrollIntoView({ block: "nearest" });
  part.send("unit", { model: $("model").value, layer, unit: looked.unit });
}

function closeUnit() {
  looked = null;
  $("unit").hidden = true;
  $("unit-views").replaceChildren();
}

$("unit-before").addEventListener("click", () => askUnit(looked.layer, looked.unit - 1, looked.count));
$("unit-after").addEventListener("click", () => askUnit(looked.layer, looked.unit + 1, looked.count));
$("unit-close").addEventListener("click", closeUnit);

function showUnit({ layer, unit, plates, drives, note }, bytes) {
  if (looked === null || looked.layer !== layer || looked.unit !== unit) return;
  $("unit-note").textContent = note || "Under each image: how much it excites the unit, before its activation function.";
  const views = $("unit-views");
  views.replaceChildren();
  let start = 0;
  let inputs = 0;
  for (const plate of plates) {
    const size = plate.shape.reduce((a, b) => a * b);
    const pixels = bytes.subarray(start, start + size);
    start += size;
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    const caption = document.createElement("figcaption");
    canvas.setAttribute("role", "img");
    if (plate.name === "weights") {
      paintWeights(canvas, plate, pixels);
      caption.textContent = `weights, red positive, blue negative, up to ${plate.high.toPrecision(2)}`;
      figure.className = "wide";
    } else {
      paintImage(canvas, plate, pixels);
      const drive = drives[inputs].toPrecision(3);
      caption.textContent = plate.name === "stimulus" ? `optimal stimulus: ${drive}` : drive;
      figure.className = plate.name;
      inputs += 1;
    }
    canvas.setAttribute("aria-label", caption.textContent);
    figure.append(canvas, caption);
    views.append(figure);
  }
}
