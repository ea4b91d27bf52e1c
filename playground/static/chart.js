// Line charts on a canvas, in the page's colours.

const LEFT = 46;
const BOTTOM = 34;
const TOP = 10;
const RIGHT = 12;

// Numbers for an axis: about `count` of them, at 1, 2 or 5 times a power of ten.
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

export function shortNumber(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
  return String(Number(value.toPrecision(3)));
}

// Draws lines: [{points: [[x, y], ...], colour: "--accent", width: 2, dots: false}], in the order given. The canvas' size on
// the screen is the style sheet's. xLabel; low, high: bounds of y that are always shown; right: of x.
export function drawChart(canvas, lines, { xLabel = "", low = Infinity, high = -Infinity, right: least = 1 } = {}) {
  const box = canvas.getBoundingClientRect();
  if (!box.width) return;
  const scale = devicePixelRatio;
  const [width, height] = [box.width, box.height];
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const style = getComputedStyle(canvas);
  const colour = (name) => style.getPropertyValue(name);
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const all = lines.flatMap(({ points }) => points).filter(([, y]) => Number.isFinite(y));
  let [left, right] = [0, least];
  let [bottom, top] = [low, high];
  for (const [x, y] of all) {
    right = Math.max(right, x);
    bottom = Math.min(bottom, y);
    top = Math.max(top, y);
  }
  if (!(bottom <= top)) [bottom, top] = [0, 1];
  if (bottom === top) [bottom, top] = [bottom - 0.5, top + 0.5];
  const X = (x) => LEFT + ((x - left) / (right - left)) * (width - LEFT - RIGHT);
  const Y = (y) => height - BOTTOM - ((y - bottom) / (top - bottom)) * (height - BOTTOM - TOP);
  pen.font = "12px system-ui, sans-serif";
  pen.fillStyle = colour("--soft");
  pen.strokeStyle = colour("--line");
  pen.lineWidth = 1;
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  for (const value of ticks(bottom, top, 4)) {
    pen.beginPath();
    pen.moveTo(LEFT, Math.round(Y(value)) + 0.5);
    pen.lineTo(width - RIGHT, Math.round(Y(value)) + 0.5);
    pen.stroke();
    pen.fillText(shortNumber(value), LEFT - 6, Y(value));
  }
  pen.textBaseline = "top";
  pen.textAlign = "center";
  for (const value of ticks(left, right, Math.max(3, Math.floor(width / 110)))) {
    if (X(value) < width - 24) pen.fillText(shortNumber(value), X(value), height - BOTTOM + 5);
  }
  pen.textAlign = "right";
  pen.fillText(xLabel, width - RIGHT, height - 14);
  pen.lineJoin = "round";
  for (const { points, colour: name = "--accent", width: line = 2, dots = false } of lines) {
    pen.strokeStyle = pen.fillStyle = colour(name);
    pen.lineWidth = line;
    pen.beginPath();
    for (const [x, y] of points) {
      if (!Number.isFinite(y)) continue;
      if (dots) {
        pen.moveTo(X(x) + 2, Y(y));
        pen.arc(X(x), Y(y), 2, 0, 2 * Math.PI);
      } else pen.lineTo(X(x), Y(y));
    }
    if (dots) pen.fill();
    else pen.stroke();
  }
}
