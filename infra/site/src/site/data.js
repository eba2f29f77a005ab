// Data files, loaded late: scripts that call ontogeny.data(NAME, value), for file:// has no fetch.

const waiting = new Map();
const loaded = new Map();

/** Receive the value of a data file; each of them calls this. */
export function receive(name, value) {
  loaded.set(name, value);
  waiting.get(name)?.(value);
}

const loads = new Map();

function load(name, address) {
  return new Promise((resolve, reject) => {
    waiting.set(name, resolve);
    const script = document.createElement("script");
    script.src = address;
    script.onerror = () => reject(new Error(`cannot read ${address}`));
    script.onload = () => {
      if (!loaded.has(name)) reject(new Error(`${address} has no data named ${name}`));
    };
    document.head.append(script);
  });
}

/** Return the value of a data file: a NAME in data/, or the address of a script. */
export function dataFile(reference) {
  const isAddress = reference.endsWith(".js");
  const name = isAddress ? reference.replace(/^.*\//, "").replace(/\.js$/, "") : reference;
  if (loaded.has(name)) return Promise.resolve(loaded.get(name));
  if (!loads.has(name)) loads.set(name, load(name, isAddress ? reference : `data/${name}.js`));
  return loads.get(name);
}
