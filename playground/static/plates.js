// Pictures of a network: its input, and a tile for each unit of a layer.

const WIDTH = 496; // of a full row of tiles on the screen, where there is room
const GAP = 1; // pixels between tiles

// Colours from dark to light, perceived evenly (cubehelix, Green 2011), 256 times red, green, blue.
const COLOURS = new Uint8Array(3 * 256);
for (let i = 0; i < 256; i++) {
  const x = i / 255;
  const angle = 2 * Math.PI * (0.1 - 0.9 * x);
  const strength = 0.55 * x * (1 - x);
  const [c, s] = [Math.cos(angle), Math.sin(angle)];
  const mixed = [-0.14861 * c + 1.78277 * s, -0.29227 * c - 0.90649 * s, 1.97294 * c];
  for (let k = 0; k < 3; k++) COLOURS[3 * i + k] = Math.max(0, Math.min(255, 255 * (x + strength * mixed[k])));
}

// An input: gray, or red, green and blue.
export function paintImage(canvas, { shape: [channels, height, width] }, pixels) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let k = 0; k < 3; k++) image.data[4 * i + k] = pixels[(channels === 3 ? k : 0) * width * height + i];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const strong = (byte) => [COLOURS[3 * byte], COLOURS[3 * byte + 1], COLOURS[3 * byte + 2]];

// From blue over white to red, as the byte goes from 0 over 127.5 to 255.
function signed(byte) {
  const x = byte / 127.5 - 1;
  const [end, share] = [x < 0 ? [33, 102, 172] : [178, 24, 43], Math.abs(x)];
  return end.map((value) => 255 + (value - 255) * share);
}

// Tiles of the units of a layer; a layer without places is one strip of cells.
export function paintPlate(canvas, { shape }, pixels) {
  const isStrip = shape[1] === 1 && shape[2] === 1;
  const full = isStrip ? 64 : shape[2] > 20 ? 8 : shape[2] > 10 ? 12 : 16; // tiles of a row
  paintTiles(canvas, shape, pixels, full, strong);
  canvas.style.width = `${(WIDTH * Math.min(shape[0], full)) / full}px`;
}

export function paintWeights(canvas, { shape }, pixels) {
  const isStrip = shape[1] === 1 && shape[2] === 1;
  paintTiles(canvas, shape, pixels, isStrip ? 32 : Math.max(1, Math.floor(48 / (shape[2] + GAP))), signed);
  canvas.style.width = `${canvas.width * 8}px`;
}

// The unit under a click on the tiles; null beside them.
export function unitAt(canvas, event) {
  const { units, columns, width, height } = canvas.tiles;
  const box = canvas.getBoundingClientRect();
  const column = Math.floor(((event.clientX - box.left) / box.width) * (canvas.width / width));
  const row = Math.floor(((event.clientY - box.top) / box.height) * (canvas.height / height));
  const unit = row * columns + Math.min(column, columns - 1);
  return unit < units ? unit : null;
}

function paintTiles(canvas, [units, height, width], pixels, full, colour) {
  const gap = height === 1 && width === 1 ? 0 : GAP;
  const columns = Math.min(units, full);
  const rows = Math.ceil(units / columns);
  canvas.width = columns * (width + gap) - gap;
  canvas.height = rows * (height + gap) - gap;
  canvas.tiles = { units, columns, width: width + gap, height: height + gap };
  const image = new ImageData(canvas.width, canvas.height);
  for (let unit = 0; unit < units; unit++) {
    const left = (unit % columns) * (width + gap);
    const top = Math.floor(unit / columns) * (height + gap);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const to = 4 * ((top + y) * canvas.width + left + x);
        image.data.set([...colour(pixels[(unit * height + y) * width + x]), 255], to);
      }
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}
