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

export function paintInput(canvas, { shape: [channels, height, width] }, pixels) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let k = 0; k < 3; k++) image.data[4 * i + k] = pixels[(channels === 3 ? k : 0) * width * height + i];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// Paints the tiles of a layer; a layer without places is one strip of cells.
export function paintPlate(canvas, { shape: [units, height, width] }, pixels) {
  const isStrip = height === 1 && width === 1;
  const gap = isStrip ? 0 : GAP;
  const full = isStrip ? 64 : width > 20 ? 8 : width > 10 ? 12 : 16; // tiles of a row
  const columns = Math.min(units, full);
  const rows = Math.ceil(units / columns);
  canvas.width = columns * (width + gap) - gap;
  canvas.height = rows * (height + gap) - gap;
  canvas.style.width = `${(WIDTH * columns) / full}px`;
  const image = new ImageData(canvas.width, canvas.height);
  for (let unit = 0; unit < units; unit++) {
    const left = (unit % columns) * (width + gap);
    const top = Math.floor(unit / columns) * (height + gap);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const from = 3 * pixels[(unit * height + y) * width + x];
        const to = 4 * ((top + y) * canvas.width + left + x);
        image.data.set([COLOURS[from], COLOURS[from + 1], COLOURS[from + 2], 255], to);
      }
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}
