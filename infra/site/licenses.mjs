// Print the licence of every package whose code is in the bundles that esbuild's metafiles describe.
import { readFileSync, readdirSync } from "node:fs";

const names = new Set();
for (const metafile of process.argv.slice(2)) {
  const { outputs } = JSON.parse(readFileSync(metafile, "utf8"));
  for (const { inputs } of Object.values(outputs)) {
    for (const [path, { bytesInOutput }] of Object.entries(inputs)) {
      const name = path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1];
      if (name && bytesInOutput) names.add(name);
    }
  }
}

console.log("plot.js and list.js contain code of these packages.");
for (const name of [...names].sort()) {
  const folder = `node_modules/${name}`;
  const { version, license, homepage } = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  if (!file) throw new Error(`${name} has no licence file`);
  console.log(`\n${"=".repeat(80)}\n${name} ${version} (${license})${homepage ? `, ${homepage}` : ""}\n`);
  console.log(readFileSync(`${folder}/${file}`, "utf8").trim());
}
