// Frames of a game on a canvas.

// Shows a PNG's bytes; the canvas takes its size. Returns false where isCurrent() says that it is too late for it.
export async function paintFrame(canvas, bytes, isCurrent = () => true) {
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  if (!isCurrent()) return false;
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
    canvas.style.imageRendering = bitmap.width < 300 ? "pixelated" : "auto";
  }
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  return true;
}
