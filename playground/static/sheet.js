// The sheet: strokes of a brush and an eraser, undone one by one, or an image file in their place.

const PAPER = "#ffffff";
const INK = "#14161a";

export class Sheet {
  // onChange(): after every change.
  constructor(canvas, onChange) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.onChange = onChange;
    this.strokes = []; // {width, isEraser, points}
    this.file = null; // {bytes, picture}
    this.width = 20;
    this.isEraser = false;
    this.pens = new Map(); // strokes under way by pointer
    this.paint();
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.go(event));
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => this.end(event));
  }

  get isEmpty() {
    return this.file === null && !this.strokes.some((stroke) => !stroke.isEraser);
  }

  clear() {
    this.strokes = [];
    this.file = null;
    this.changed();
  }

  undo() {
    if (this.strokes.pop() === undefined) this.file = null;
    this.changed();
  }

  async take(file) { // throws where the browser cannot show it
    const picture = await createImageBitmap(file);
    this.strokes = [];
    this.file = { bytes: await file.arrayBuffer(), picture };
    this.changed();
  }

  // The image file to be classified: the one that was dropped, as it is, or a PNG of the sheet.
  bytes() {
    if (this.file !== null && this.strokes.length === 0) return this.file.bytes;
    const [, text] = this.canvas.toDataURL("image/png").split(","); // toBlob may wait until the browser is idle
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  }

  begin(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    const stroke = { width: this.width, isEraser: this.isEraser, points: [this.place(event)] };
    this.pens.set(event.pointerId, stroke);
    this.strokes.push(stroke);
    this.changed();
  }

  go(event) {
    const stroke = this.pens.get(event.pointerId);
    if (stroke === undefined) return;
    const all = event.getCoalescedEvents?.() ?? [];
    for (const each of all.length ? all : [event]) stroke.points.push(this.place(each));
    this.changed();
  }

  end(event) {
    if (this.pens.delete(event.pointerId)) this.changed();
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  changed() {
    this.paint();
    this.onChange();
  }

  paint() {
    const { context, canvas } = this;
    context.fillStyle = PAPER;
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (this.file !== null) {
      const { picture } = this.file;
      const scale = Math.min(canvas.width / picture.width, canvas.height / picture.height);
      const [width, height] = [picture.width * scale, picture.height * scale];
      context.drawImage(picture, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
    }
    context.lineCap = context.lineJoin = "round";
    for (const { width, isEraser, points } of this.strokes) {
      context.strokeStyle = context.fillStyle = isEraser ? PAPER : INK;
      context.lineWidth = isEraser ? width * 1.6 : width;
      context.beginPath();
      if (points.length === 1) {
        context.arc(...points[0], context.lineWidth / 2, 0, 2 * Math.PI);
        context.fill();
        continue;
      }
      context.moveTo(...points[0]);
      for (let i = 1; i < points.length - 1; i++) { // curves through the middles between points
        const [x, y] = points[i];
        context.quadraticCurveTo(x, y, (x + points[i + 1][0]) / 2, (y + points[i + 1][1]) / 2);
      }
      context.lineTo(...points.at(-1));
      context.stroke();
    }
  }
}
