// The network of the plane: a picture for each unit, and lines for the weights between them.

import { colourOf, sharpPen } from "./plane-sheet.js";

export const SMALL = 20; // cells of a unit's picture
const LARGE = 60; // of the surface, and of the unit that is looked at
const ROWS = 8; // units of a layer's column
const FAINT = 0.06; // share of a layer's largest weight below which no line is drawn
const MOST_UNITS = 32;
const SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉";

const subscript = (number) => [...String(number)].map((digit) => SUBSCRIPTS[digit]).join("");

const short = (size) => (size < 1000 ? size.toFixed(2) : size.toExponential(1));

// Paints a picture of side x side bytes: 0 to 255 from the colour of what is below 0, over paper, to that of what is above.
export function paintMap(canvas, bytes, side) {
  if (canvas.width !== side) canvas.width = canvas.height = side;
  const [below, above, paper] = ["--class-0", "--class-1", "--paper"].map((name) => colourOf(canvas, name));
  const image = new ImageData(side, side);
  for (let i = 0; i < side * side; i++) {
    const x = bytes[i] / 127.5 - 1;
    const end = x < 0 ? below : above;
    const share = 0.85 * Math.abs(x);
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = paper[c] + (end[c] - paper[c]) * share;
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// Paints a probability, 0 to 255, in its class' colour.
export function paintClass(canvas, bytes, side, kind) {
  if (canvas.width !== side) canvas.width = canvas.height = side;
  const [colour, paper] = [`--class-${kind}`, "--paper"].map((name) => colourOf(canvas, name));
  const image = new ImageData(side, side);
  for (let i = 0; i < side * side; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = paper[c] + (colour[c] - paper[c]) * 0.85 * (bytes[i] / 255);
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

export class PlaneNetwork {
  // onWidth(layer, units): the visitor wants so many; onUnit(layer, unit): the visitor looks at one.
  constructor(element, { onWidth, onUnit }) {
    this.element = element;
    this.onWidth = onWidth;
    this.onUnit = onUnit;
    this.lines = document.createElement("canvas");
    this.lines.setAttribute("aria-hidden", "true");
    this.columns = []; // the tiles' elements, from the inputs to the output
    this.places = null; // of the tiles' middles, once they are measured
    this.weights = null;
    this.shape = "";
  }

  // Builds the columns for hidden layers of these widths.
  build(hidden, numClasses) {
    const shape = `${hidden}/${numClasses}`;
    if (shape === this.shape) return;
    this.shape = shape;
    this.weights = this.places = null;
    const focused = document.activeElement?.dataset.plane;
    const inputs = this.column("Inputs", [0, 1].map((i) => this.tile("div", `x${subscript(i + 1)}`)));
    const layers = hidden.map((width, layer) => {
      const tiles = Array.from({ length: width }, (_, unit) => {
        return this.unit(layer, unit, `Unit ${unit + 1} of layer ${layer + 1}`);
      });
      return this.column(`Layer ${layer + 1}`, tiles, this.counter(layer, width));
    });
    const classes = numClasses === 2 ? ["B"] : [..."ABCD"].slice(0, numClasses);
    const output = this.column("Output", classes.map((name, unit) => this.unit(hidden.length, unit, `Probability of class ${name}`)));
    this.columns = [inputs, ...layers, output].map((column) => [...column.querySelectorAll(".plane-tile")]);
    this.element.replaceChildren(this.lines, inputs, ...layers, output);
    this.measure();
    this.columns[0].forEach((tile, axis) => this.paintInput(tile.firstChild, axis));
    if (focused) this.element.querySelector(`[data-plane="${focused}"]`)?.focus();
  }

  column(title, tiles, counter = null) {
    const column = document.createElement("div");
    column.className = "plane-column";
    const heading = document.createElement("h3");
    heading.textContent = title;
    const grid = document.createElement("div");
    grid.className = tiles.length <= ROWS ? "plane-tiles plane-few" : "plane-tiles";
    const space = document.createElement("span");
    space.className = "plane-count";
    grid.append(...tiles);
    grid.addEventListener("keydown", (event) => this.walk(event, tiles));
    column.append(heading, counter ?? space, grid);
    return column;
  }

  unit(layer, unit, label) {
    const tile = this.tile("button", label);
    tile.type = "button";
    tile.tabIndex = unit === 0 ? 0 : -1;
    tile.dataset.plane = `unit-${layer}-${unit}`;
    tile.setAttribute("aria-pressed", "false");
    tile.addEventListener("click", () => this.onUnit(layer, unit));
    return tile;
  }

  tile(kind, label) {
    const tile = document.createElement(kind);
    tile.className = "plane-tile";
    tile.title = label;
    tile.setAttribute("aria-label", label);
    if (kind === "div") tile.setAttribute("role", "img");
    tile.append(document.createElement("canvas"));
    return tile;
  }

  counter(layer, width) {
    const counter = document.createElement("span");
    counter.className = "plane-count";
    counter.setAttribute("role", "group");
    counter.setAttribute("aria-label", `Units of layer ${layer + 1}`);
    const number = document.createElement("input");
    Object.assign(number, { type: "number", min: 1, max: MOST_UNITS, value: width });
    number.setAttribute("aria-label", `Units of layer ${layer + 1}`);
    number.dataset.plane = `width-${layer}`;
    const want = (value) => this.onWidth(layer, Math.max(1, Math.min(MOST_UNITS, Math.round(value) || width)));
    number.addEventListener("change", () => want(Number(number.value)));
    const [fewer, more] = [["−", -1, "fewer"], ["+", 1, "more"]].map(([text, by, word]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.dataset.plane = `${word}-${layer}`;
      button.setAttribute("aria-label", `One unit ${word} in layer ${layer + 1}`);
      button.addEventListener("click", () => want(width + by));
      return button;
    });
    counter.append(fewer, number, more);
    return counter;
  }

  // Arrow keys go from unit to unit of a layer.
  walk(event, tiles) {
    const by = { ArrowDown: 1, ArrowUp: -1, ArrowRight: ROWS, ArrowLeft: -ROWS }[event.key];
    const now = tiles.indexOf(document.activeElement);
    const next = tiles[now + by];
    if (by === undefined || now < 0 || !next) return;
    event.preventDefault();
    tiles[now].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  paintInput(canvas, axis) {
    const ramp = (i) => 255 * ((i + 0.5) / SMALL);
    const bytes = Float32Array.from({ length: SMALL * SMALL }, (_, i) => (axis === 0 ? ramp(i % SMALL) : 255 - ramp(Math.floor(i / SMALL))));
    paintMap(canvas, bytes, SMALL);
  }

  // Measures where the tiles are, for the lines.
  measure() {
    const origin = this.element.getBoundingClientRect();
    if (!origin.width) return;
    this.lines.style.width = "0px"; // so that it does not widen what it is to cover
    this.lines.style.width = `${this.element.scrollWidth}px`;
    this.lines.style.height = `${this.element.clientHeight}px`;
    const [left, top] = [origin.left - this.element.scrollLeft + this.element.clientLeft, origin.top + this.element.clientTop];
    this.places = this.columns.map((tiles) => tiles.map((tile) => {
      const box = tile.getBoundingClientRect();
      return { left: box.left - left, right: box.right - left, y: (box.top + box.bottom) / 2 - top };
    }));
    this.paintLines();
  }

  // maps: bytes of all hidden units' pictures; surface: as the sheet's; weights: float32, [units, inputs + 1] a layer.
  paint({ maps, surface, weights }) {
    const cells = SMALL * SMALL;
    this.columns.slice(1, -1).flat().forEach((tile, i) => paintMap(tile.firstChild, maps.subarray(i * cells, (i + 1) * cells), SMALL));
    const outputs = this.columns.at(-1);
    outputs.forEach((tile, k) => {
      const kind = outputs.length === 1 ? 1 : k;
      const bytes = surface.subarray(kind * LARGE * LARGE, (kind + 1) * LARGE * LARGE);
      if (outputs.length === 1) paintMap(tile.firstChild, bytes, LARGE);
      else paintClass(tile.firstChild, bytes, LARGE, kind);
    });
    this.weights = weights;
    this.paintLines();
  }

  paintLines() {
    if (this.places === null) return;
    const pen = sharpPen(this.lines);
    if (this.weights === null) return;
    const style = getComputedStyle(this.lines);
    const colours = ["--class-0", "--class-1"].map((name) => style.getPropertyValue(name));
    this.eachLayer((layer, inputs, units, start) => {
      const row = inputs + 1;
      let most = 1e-12;
      for (let i = 0; i < units * row; i++) if (i % row !== inputs) most = Math.max(most, Math.abs(this.weights[start + i]));
      for (let unit = 0; unit < units; unit++) {
        for (let input = 0; input < inputs; input++) {
          const weight = this.weights[start + unit * row + input];
          const share = Math.abs(weight) / most;
          if (share < FAINT) continue;
          const [from, to] = [this.places[layer][input], this.places[layer + 1][unit]];
          const middle = (from.right + to.left) / 2;
          pen.strokeStyle = colours[weight < 0 ? 0 : 1];
          pen.globalAlpha = 0.12 + 0.7 * share;
          pen.lineWidth = 0.5 + 2.5 * share;
          pen.beginPath();
          pen.moveTo(from.right, from.y);
          pen.bezierCurveTo(middle, from.y, middle, to.y, to.left, to.y);
          pen.stroke();
        }
      }
    });
    pen.globalAlpha = 1;
  }

  // Calls take(layer, inputs, units, start of its weights) for each layer that has weights.
  eachLayer(take) {
    let start = 0;
    for (let layer = 0; layer + 1 < this.columns.length; layer++) {
      const [inputs, units] = [this.columns[layer].length, this.columns[layer + 1].length];
      take(layer, inputs, units, start);
      start += units * (inputs + 1);
    }
  }

  // Marks the unit that is looked at; null: none.
  mark(looked) {
    this.columns.slice(1).forEach((tiles, layer) => tiles.forEach((tile, unit) => {
      tile.setAttribute("aria-pressed", String(looked !== null && looked.layer === layer && looked.unit === unit));
    }));
  }

  // The formula of a unit, with its largest weights; name: of the function of the sum.
  formula(layer, unit, name, most = 8) {
    let text = "";
    this.eachLayer((each, inputs, units, start) => {
      if (each !== layer || unit >= units || this.weights === null) return;
      const own = this.weights.subarray(start + unit * (inputs + 1), start + (unit + 1) * (inputs + 1));
      const source = (i) => `${layer === 0 ? "x" : "h"}${subscript(i + 1)}`;
      const order = [...own.keys()].slice(0, inputs).sort((a, b) => Math.abs(own[b]) - Math.abs(own[a])).slice(0, most);
      const terms = order.sort((a, b) => a - b).map((i) => [own[i], ` ${source(i)}`]);
      const rest = inputs > most ? ` + ${inputs - most} smaller ones` : "";
      const sum = [...terms, [own[inputs], ""]].map(([value, of], i) => {
        const sign = value < 0 ? (i ? " − " : "−") : i ? " + " : "";
        return `${sign}${short(Math.abs(value))}${of}${i === terms.length - 1 ? rest : ""}`;
      }).join("");
      text = `${name} (${sum})`;
    });
    return text;
  }
}
