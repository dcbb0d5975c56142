// Drives Chromium for the tests: reads one JSON command a line, {op, ...}, and answers each with a line of JSON.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const FLAGS = [
  ...["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
  ...["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"],
];
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await chromium.launch({ executablePath: process.argv[2], args: FLAGS });
let context;
let page;
let problems = [];

const operations = {
  // A page of its own, without cookies. What goes wrong in it is collected.
  async open({ url, width = 1280, height = 900, scheme = "light", script = true }) {
    await context?.close();
    problems = [];
    context = await browser.newContext({
      viewport: { width, height },
      colorScheme: scheme,
      javaScriptEnabled: script,
    });
    page = await context.newPage();
    const own = new URL(url).origin;
    page.on("console", (message) => message.type() === "error" && problems.push(`console: ${message.text()}`));
    page.on("pageerror", (error) => problems.push(`script: ${error.message}`));
    page.on("dialog", (dialog) => {
      problems.push(`dialog: ${dialog.message()}`);
      dialog.dismiss();
    });
    page.on("request", (request) => new URL(request.url()).origin === own || problems.push(`request: ${request.url()}`));
    await page.goto(url);
  },
  go: ({ url }) => page.goto(url).then(() => {}),
  evaluate: ({ code }) => page.evaluate(code),
  text: ({ selector }) => page.innerText(selector),
  press: ({ keys }) => page.keyboard.press(keys),
  type: ({ text }) => page.keyboard.type(text),
  fill: ({ selector, text }) => page.fill(selector, text),
  click: ({ selector }) => page.click(selector),
  address: () => page.url(),
  shot: ({ path }) => page.screenshot({ path, fullPage: true }).then(() => {}),
  problems: () => problems,
  async axe() {
    await page.evaluate(`${axe}; undefined`);
    const found = await page.evaluate("axe.run()");
    return found.violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.html).join(" | ")}`);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { op, ...options } = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await operations[op](options)) ?? null };
  } catch (error) {
    answer = { error: String(error.message ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
