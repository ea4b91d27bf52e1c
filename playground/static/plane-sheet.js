// The plane: points that are placed by hand, and behind them the probability of each class.

export const EXTENT = 2; // of the plane on either side of the origin
const SIDE = 60; // cells of the surface
const FINE = 240; // pixels of its picture
const MOST_POINTS = 2000;
const APART = 0.13; // between points of one stroke
const REACH = 0.17; // of the eraser
const STEP = 0.1; // of the cross for an arrow key

// Red, green and blue of a variable of the style sheet.
export function colourOf(element, name) {
  const text = getComputedStyle(element).getPropertyValue(name).trim();
  return [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16));
}

// A canvas as large as it is on the screen; returns its pen, in the style sheet's pixels.
export function sharpPen(canvas) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const scale = devicePixelRatio;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}

// Reads a picture of side x side bytes between its cells: FINE x FINE numbers from 0 to 255.
export function interpolated(bytes, side) {
  const found = new Float32Array(FINE * FINE);
  for (let row = 0; row < FINE; row++) {
    const y = Math.max(0, Math.min(side - 1, ((row + 0.5) * side) / FINE - 0.5));
    const [top, down] = [Math.floor(y), y - Math.floor(y)];
    const [upper, lower] = [top * side, Math.min(side - 1, top + 1) * side];
    for (let column = 0; column < FINE; column++) {
      const x = Math.max(0, Math.min(side - 1, ((column + 0.5) * side) / FINE - 0.5));
      const left = Math.floor(x);
      const right = Math.min(side - 1, left + 1);
      const across = x - left;
      const above = bytes[upper + left] + (bytes[upper + right] - bytes[upper + left]) * across;
      const below = bytes[lower + left] + (bytes[lower + right] - bytes[lower + left]) * across;
      found[row * FINE + column] = above + (below - above) * down;
    }
  }
  return found;
}

// The path of a class' shape, equal areas: circle, square, triangle, diamond.
function shape(pen, kind, x, y, size) {
  pen.beginPath();
  if (kind === 0) pen.arc(x, y, size, 0, 2 * Math.PI);
  else if (kind === 1) pen.rect(x - 0.88 * size, y - 0.88 * size, 1.76 * size, 1.76 * size);
  else if (kind === 2) {
    pen.moveTo(x, y - 1.4 * size);
    pen.lineTo(x + 1.3 * size, y + 0.85 * size);
    pen.lineTo(x - 1.3 * size, y + 0.85 * size);
    pen.closePath();
  } else {
    pen.moveTo(x, y - 1.35 * size);
    pen.lineTo(x + 1.35 * size, y);
    pen.lineTo(x, y + 1.35 * size);
    pen.lineTo(x - 1.35 * size, y);
    pen.closePath();
  }
}

export class PlaneSheet {
  // onChange(): the visitor has placed or removed points; onCross(text): the cross is elsewhere; onFull(): no more fit.
  constructor(canvas, { onChange, onCross, onFull }) {
    this.canvas = canvas;
    this.onChange = onChange;
    this.onCross = onCross;
    this.onFull = onFull;
    this.points = []; // [x, y, class]
    this.tool = 0; // a class, or "eraser"
    this.surface = null; // a canvas with its colours
    this.strokes = new Map(); // last places by pointer
    this.hover = null; // where the eraser is
    this.cross = null; // [x, y], once arrow keys were pressed
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.go(event));
    canvas.addEventListener("pointerleave", () => { this.hover = null; this.paint(); });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => this.strokes.delete(event.pointerId));
    canvas.addEventListener("keydown", (event) => this.press(event));
    canvas.addEventListener("blur", () => { this.cross = null; this.paint(); });
  }

  get numClasses() {
    return this.points.reduce((most, [, , kind]) => Math.max(most, kind + 1), 2);
  }

  bytes() {
    return new Float32Array(this.points.flat()).buffer;
  }

  take(bytes) {
    const values = new Float32Array(bytes.slice().buffer);
    this.points = Array.from({ length: values.length / 3 }, (_, i) => [...values.subarray(3 * i, 3 * i + 3)]);
    this.paint();
  }

  // -- placing ----------------------------------------------------------------------------------------------------------

  begin(event) {
    if (event.button !== 0) return;
    event.preventDefault(); // of the focus, too
    this.canvas.focus({ preventScroll: true, focusVisible: false });
    this.canvas.setPointerCapture(event.pointerId);
    this.cross = null;
    const place = this.place(event);
    this.strokes.set(event.pointerId, place);
    this.use(...place);
  }

  go(event) {
    const all = event.getCoalescedEvents?.() ?? [];
    this.hover = this.tool === "eraser" ? this.place(event) : null;
    for (const each of all.length ? all : [event]) {
      const last = this.strokes.get(event.pointerId);
      if (last === undefined) break;
      const [x, y] = this.place(each);
      const way = Math.hypot(x - last[0], y - last[1]);
      const count = Math.floor(way / APART);
      for (let i = 1; i <= count; i++) {
        const share = (i * APART) / way;
        const place = [last[0] + (x - last[0]) * share, last[1] + (y - last[1]) * share];
        this.strokes.set(event.pointerId, place);
        this.use(...place);
      }
    }
    if (this.hover) this.paint();
  }

  press(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (event.key in moves) {
      const limit = (value) => Math.max(-EXTENT, Math.min(EXTENT, Math.round(value * 100) / 100));
      const [x, y] = this.cross ?? [0, 0];
      const [right, up] = this.cross ? moves[event.key] : [0, 0];
      const step = event.shiftKey ? 5 * STEP : STEP;
      this.cross = [limit(x + right * step), limit(y + up * step)];
      this.onCross(`${this.cross[0]}, ${this.cross[1]}`);
    } else if (event.key === " " || event.key === "Enter") {
      this.cross ??= [0, 0];
      this.use(...this.cross);
      this.onCross(this.points.length === 1 ? "1 point" : `${this.points.length} points`);
    } else return;
    event.preventDefault();
    this.paint();
  }

  // Places a point, or erases those within reach.
  use(x, y) {
    if (Math.abs(x) > EXTENT || Math.abs(y) > EXTENT) return;
    const before = this.points.length;
    if (this.tool === "eraser") this.points = this.points.filter(([a, b]) => Math.hypot(a - x, b - y) > REACH);
    else if (before >= MOST_POINTS) this.onFull();
    else this.points.push([x, y, this.tool]);
    if (this.points.length === before) return;
    this.paint();
    this.onChange();
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width - 0.5) * 2 * EXTENT,
      (0.5 - (event.clientY - box.top) / box.height) * 2 * EXTENT,
    ];
  }

  // -- painting ---------------------------------------------------------------------------------------------------------

  // probabilities: bytes of the first class' cells, then the next one's; null: none.
  setSurface(probabilities, numClasses) {
    if (probabilities === null) this.surface = null;
    else {
      this.surface ??= Object.assign(document.createElement("canvas"), { width: FINE, height: FINE });
      const paper = colourOf(this.canvas, "--paper");
      const colours = Array.from({ length: numClasses }, (_, k) => colourOf(this.canvas, `--class-${k}`));
      const planes = colours.map((_, k) => interpolated(probabilities.subarray(k * SIDE * SIDE, (k + 1) * SIDE * SIDE), SIDE));
      const image = new ImageData(FINE, FINE);
      const pixels = image.data;
      for (let i = 0; i < FINE * FINE; i++) {
        let [most, red, green, blue] = [0, 0, 0, 0];
        for (let k = 0; k < numClasses; k++) {
          const share = planes[k][i] / 255;
          const colour = colours[k];
          if (share > most) most = share;
          red += share * colour[0];
          green += share * colour[1];
          blue += share * colour[2];
        }
        const sure = Math.max(0, (most - 1 / numClasses) / (1 - 1 / numClasses));
        const depth = 0.04 + 0.5 * sure;
        pixels[4 * i] = paper[0] + (red - paper[0]) * depth;
        pixels[4 * i + 1] = paper[1] + (green - paper[1]) * depth;
        pixels[4 * i + 2] = paper[2] + (blue - paper[2]) * depth;
        pixels[4 * i + 3] = 255;
      }
      this.surface.getContext("2d").putImageData(image, 0, 0);
    }
    this.paint();
  }

  paint() {
    const { canvas } = this;
    const size = canvas.clientWidth;
    if (!size) return;
    const pen = sharpPen(canvas);
    if (this.surface !== null) {
      pen.imageSmoothingEnabled = true;
      pen.imageSmoothingQuality = "high";
      pen.drawImage(this.surface, 0, 0, size, canvas.clientHeight);
    }
    const style = getComputedStyle(canvas);
    const X = (x) => (x / EXTENT / 2 + 0.5) * size;
    const Y = (y) => (0.5 - y / EXTENT / 2) * canvas.clientHeight;
    pen.strokeStyle = style.getPropertyValue("--ink");
    pen.lineWidth = 1;
    pen.globalAlpha = 0.16;
    pen.beginPath();
    for (const value of [-1, 0, 1]) {
      const reach = value === 0 ? EXTENT : 0.04;
      pen.moveTo(X(value), Y(-reach));
      pen.lineTo(X(value), Y(reach));
      pen.moveTo(X(-reach), Y(value));
      pen.lineTo(X(reach), Y(value));
    }
    pen.stroke();
    pen.globalAlpha = 1;
    const radius = size / 95;
    pen.lineWidth = 1.2;
    pen.strokeStyle = style.getPropertyValue("--paper");
    for (let kind = 0; kind < 4; kind++) {
      pen.fillStyle = style.getPropertyValue(`--class-${kind}`);
      for (const [x, y, own] of this.points) {
        if (own !== kind) continue;
        shape(pen, kind, X(x), Y(y), radius);
        pen.fill();
        pen.stroke();
      }
    }
    pen.strokeStyle = style.getPropertyValue("--ink");
    if (this.hover !== null) {
      pen.lineWidth = 1.5;
      pen.beginPath();
      pen.arc(X(this.hover[0]), Y(this.hover[1]), (REACH / EXTENT / 2) * size, 0, 2 * Math.PI);
      pen.stroke();
    }
    if (this.cross !== null) {
      const [x, y] = [X(this.cross[0]), Y(this.cross[1])];
      pen.lineWidth = 2;
      pen.beginPath();
      for (const [right, down] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        pen.moveTo(x + 5 * right, y + 5 * down);
        pen.lineTo(x + 14 * right, y + 14 * down);
      }
      pen.stroke();
    }
  }
}
