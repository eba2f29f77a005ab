// window.ontogeny: draw(element, spec) draws a figure, data(name, value) receives a data file.
import { decode } from "./arrays.js";
import { receive } from "./data.js";
import { drawFigure, drawFigures } from "./figure.js";
import { addKeys, addSearch, addSwitches, addTables, compareCells, findHeads } from "./page.js";
import { carryState, printLight, setState, state } from "./state.js";

window.ontogeny = { ...window.ontogeny, draw: drawFigure, data: receive, decode, findHeads, compareCells, state, setState };

function start() {
  addSwitches();
  addSearch();
  addKeys();
  addTables();
  carryState();
  printLight();
  drawFigures();
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
else start();
