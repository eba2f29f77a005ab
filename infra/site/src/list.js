// window.List: sorting and filtering of tables.
import List from "list.js";

window.List = List;
