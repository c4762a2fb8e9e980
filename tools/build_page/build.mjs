// Build reports/page/page.js, page.css and licences.txt from src/. With --check, only compare them with what is there.

import {createHash} from 'node:crypto';
import {readFileSync, readdirSync, writeFileSync} from 'node:fs';
import {build} from 'esbuild';

const here = name => new URL(name, import.meta.url);
const target = name => new URL(`../../reports/page/${name}`, import.meta.url);
const read = url => readFileSync(url, 'utf8');

// The digest that tests/reports/test_page.py computes too, without Node.
const sources = ['package-lock.json', 'build.mjs', ...readdirSync(here('src')).sort().map(name => `src/${name}`)];
const digest = createHash('sha256');
for (const name of sources) digest.update(`${name}\0${read(here(name))}\0`);
const mark = `/* built from ${digest.digest('hex')} by tools/build_page */\n`;

const {outputFiles} = await build({
  entryPoints: [here('src/main.js').pathname],
  bundle: true,
  write: false,
  minify: true,
  format: 'iife',
  target: 'es2022',
  charset: 'ascii',
  legalComments: 'none',
});
const {outputFiles: styles} = await build({
  entryPoints: [here('src/page.css').pathname], bundle: true, write: false, minify: true, charset: 'ascii', target: 'es2022',
});

const {dependencies} = JSON.parse(read(here('package.json')));
const licences = Object.entries(dependencies).map(([name, version]) => {
  const folder = `node_modules/${name}`;
  const file = readdirSync(here(folder)).find(entry => /^licen[sc]e/i.test(entry));
  return `${name} ${version}\n${'-'.repeat(60)}\n${read(here(`${folder}/${file}`)).trim()}\n`;
});
const built = {
  'page.js': mark + outputFiles[0].text,
  'page.css': mark + styles[0].text,
  'licences.txt': `The page of a report contains these packages.\n\n${licences.join('\n\n')}`,
};

for (const [name, text] of Object.entries(built)) {
  if (/<\/(script|style)|<!--/i.test(text)) throw new Error(`${name} would end its element`);
  if (!process.argv.includes('--check')) writeFileSync(target(name), text);
  else if (read(target(name)) !== text) {
    console.error(`reports/page/${name} is not current: run npm run build in tools/build_page`);
    process.exitCode = 1;
  }
  console.log(`${name} ${Buffer.byteLength(text)} bytes`);
}
