import "./draw.js";
import "./play.js";
import "./plane.js";
import "./train.js";
import { start } from "./shell.js";

start();
