// window.Plot: the marks and scales of Observable Plot that site.js uses, and d3's number format.
import {
  areaY, axisX, axisY, barX, dot, gridX, gridY, line, link, plot, rect, ruleX, ruleY, scale, text,
} from "@observablehq/plot";
import { format } from "d3-format";

window.Plot = {
  areaY, axisX, axisY, barX, dot, gridX, gridY, line, link, plot, rect, ruleX, ruleY, scale, text,
  format,
};
