import { addPart } from "./shell.js";

addPart("plane", { onMessage() {} });
