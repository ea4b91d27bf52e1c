// The visitor's hand in a game: keys, and a pad on the screen.

const WORDS = ["UP", "DOWN", "LEFT", "RIGHT", "FIRE"];
const KEYS = {
  ArrowUp: "UP", ArrowDown: "DOWN", ArrowLeft: "LEFT", ArrowRight: "RIGHT", " ": "FIRE",
  w: "UP", s: "DOWN", a: "LEFT", d: "RIGHT",
};
const PLACES = { UP: "1 / 2", LEFT: "2 / 1", RIGHT: "2 / 3", DOWN: "3 / 2" };
const ARROWS = { UP: "↑", LEFT: "←", RIGHT: "→", DOWN: "↓", FIRE: "fire" };

// The words of an action's name, such as UP and FIRE of UPFIRE; its whole name where it has others.
function wordsOf(name) {
  const found = name.match(/UP|DOWN|LEFT|RIGHT|FIRE/g) ?? [];
  return found.join("") === name ? found : [name];
}

// onAction(index), or null once nothing is pressed. Keys count while the screen, or nothing, has the focus.
export class Pad {
  constructor(element, screen, onAction) {
    Object.assign(this, { element, screen, onAction, actions: [], idle: null, pressed: new Set(), last: null, isOn: false });
    for (const kind of ["keydown", "keyup"]) document.addEventListener(kind, (event) => this.#key(event));
    addEventListener("blur", () => this.#clear());
  }

  // names of the actions; idle: the one that does nothing, or null.
  setActions(names, idle) {
    this.actions = names.map(wordsOf);
    this.idle = idle;
    this.#clear();
    const words = [...new Set(this.actions.flat())].filter((word) => word !== "NOOP");
    const cross = document.createElement("div");
    cross.className = "cross";
    const others = document.createElement("div");
    others.className = "others";
    for (const word of words) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = ARROWS[word] ?? word.toLowerCase();
      button.setAttribute("aria-label", word.toLowerCase());
      button.dataset.word = word;
      button.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        if (event.pointerType === "mouse") button.setPointerCapture(event.pointerId); // a touch is captured as it is
        this.#set(word, true);
      });
      for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) button.addEventListener(kind, () => this.#set(word, false));
      button.addEventListener("contextmenu", (event) => event.preventDefault());
      button.addEventListener("click", (event) => {
        if (event.detail !== 0) return; // a pointer's; else Enter, which has no end
        this.#set(word, true);
        setTimeout(() => this.#set(word, false), 150);
      });
      if (word in PLACES) {
        button.style.gridArea = PLACES[word];
        cross.append(button);
      } else others.append(button);
    }
    this.numbers = words.filter((word) => !WORDS.includes(word));
    this.element.replaceChildren(...[cross, others].filter((each) => each.children.length));
  }

  get help() {
    const words = new Set(this.actions.flat());
    const parts = [];
    if (["UP", "DOWN", "LEFT", "RIGHT"].some((word) => words.has(word))) parts.push("arrow keys or WASD");
    if (words.has("FIRE")) parts.push("space fires");
    this.numbers.slice(0, 9).forEach((word, i) => parts.push(`${i + 1}: ${word.toLowerCase()}`));
    const rest = this.idle === null ? "; the game waits while nothing is pressed" : "";
    return `Keys: ${parts.join(", ")}${rest}.`;
  }

  listen(isOn) {
    this.isOn = isOn;
    this.#clear();
  }

  #key(event) {
    if (!this.isOn || event.ctrlKey || event.altKey || event.metaKey) return;
    if (document.activeElement !== this.screen && document.activeElement !== document.body) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const word = KEYS[key] ?? this.numbers[Number(key) - 1];
    if (word === undefined || !this.actions.flat().includes(word)) return;
    event.preventDefault();
    if (!event.repeat) this.#set(word, event.type === "keydown");
  }

  #clear() {
    this.pressed.clear();
    this.#tell();
  }

  #set(word, isDown) {
    if (this.pressed.has(word) === isDown) return;
    if (isDown) this.pressed.add(word);
    else this.pressed.delete(word);
    this.#tell();
  }

  // The action that has most of what is pressed, and nothing else.
  #tell() {
    for (const button of this.element.querySelectorAll("button")) button.classList.toggle("pressed", this.pressed.has(button.dataset.word));
    let best = null;
    this.actions.forEach((words, action) => {
      if (words.every((word) => this.pressed.has(word)) && (best === null || words.length > this.actions[best].length)) best = action;
    });
    if (best !== this.last) {
      this.last = best;
      if (this.isOn) this.onAction(best);
    }
  }
}
