// The tab's connection: JSON objects as text, and binary messages of a JSON object behind its length and then bytes.

const RETRY_MS = 1500;

export function packed(header, bytes) {
  const text = new TextEncoder().encode(JSON.stringify(header));
  const message = new Uint8Array(4 + text.length + bytes.byteLength);
  new DataView(message.buffer).setUint32(0, text.length, true);
  message.set(text, 4);
  message.set(new Uint8Array(bytes), 4 + text.length);
  return message;
}

export function unpacked(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return [header, new Uint8Array(buffer, 4 + length)];
}

// Connects again and again. onMessage(header, bytes); onState(isOpen).
export class Socket {
  constructor(onMessage, onState) {
    this.onMessage = onMessage;
    this.onState = onState;
    this.open();
  }

  open() {
    const socket = new WebSocket(`ws://${location.host}/socket`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.onState(true);
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") this.onMessage(JSON.parse(data), null);
      else this.onMessage(...unpacked(data));
    };
    socket.onclose = () => {
      this.onState(false);
      setTimeout(() => this.open(), RETRY_MS);
    };
    this.socket = socket;
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  // Sends an object, with bytes behind it where there are some; nothing while there is no connection.
  send(header, bytes = null) {
    if (this.isOpen) this.socket.send(bytes === null ? JSON.stringify(header) : packed(header, bytes));
  }
}
