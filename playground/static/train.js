import { addPart } from "./shell.js";

addPart("train", { onMessage() {} });
