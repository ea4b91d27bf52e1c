// The plane: points that are placed by hand, and behind them the probability of each class.

export const EXTENT = 2; // of the plane on either side of the origin
const SIDE = 60; // cells of the surface
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
    this.surface = null; // the cells' colours, on a canvas of 60 x 60
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
      this.onCross(`${this.points.length} points`);
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
      this.surface ??= Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
      const paper = colourOf(this.canvas, "--paper");
      const colours = Array.from({ length: numClasses }, (_, k) => colourOf(this.canvas, `--class-${k}`));
      const image = new ImageData(SIDE, SIDE);
      const cells = SIDE * SIDE;
      for (let i = 0; i < cells; i++) {
        let most = 0;
        const mixed = [0, 0, 0];
        for (let k = 0; k < numClasses; k++) {
          const share = probabilities[k * cells + i] / 255;
          most = Math.max(most, share);
          for (let c = 0; c < 3; c++) mixed[c] += share * colours[k][c];
        }
        const sure = Math.max(0, (most - 1 / numClasses) / (1 - 1 / numClasses));
        const depth = 0.04 + 0.5 * sure ** 0.85;
        for (let c = 0; c < 3; c++) image.data[4 * i + c] = paper[c] + (mixed[c] - paper[c]) * depth;
        image.data[4 * i + 3] = 255;
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
