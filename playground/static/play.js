import { addPart } from "./shell.js";

addPart("play", { onMessage() {} });
