// Opens pages of `bertstream report` in a real headless Chromium: they draw, nothing is fetched, nothing is said on
// the console, and every control works. Screenshots (wide and phone, light and dark) go to the directory named last.
//
//   node scripts/check_report.js ONE.html TWO.html SCREENSHOTS      pages of one run and of two
//
// Needs Chromium (Debian: apt install chromium; CHROMIUM names another path) and the npm package playwright-core
// where node finds it (NODE_PATH).

const assert = require("node:assert");
const fs = require("node:fs");
const path = require("node:path");
const { chromium } = require("playwright-core");

const [one, two, pictures] = process.argv.slice(2);
assert(pictures, "usage: node check_report.js ONE.html TWO.html SCREENSHOTS");
fs.mkdirSync(pictures, { recursive: true });

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--no-first-run",
];
const WIDE = { width: 1360, height: 900 };
const PHONE = { width: 390, height: 844 };

// A page in a fresh context, with everything that it says and asks for.
async function open(browser, file, { viewport = WIDE, colorScheme = "light", mobile = false } = {}) {
  const context = await browser.newContext({ viewport, colorScheme, isMobile: mobile, hasTouch: mobile, deviceScaleFactor: mobile ? 2 : 1, acceptDownloads: true });
  const page = await context.newPage();
  const told = [];
  page.on("console", (message) => told.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => told.push(`error: ${error.message}`));
  page.on("request", (request) => {
    if (!/^(file|blob|data):/.test(request.url())) told.push(`request: ${request.url()}`);
  });
  await page.goto("file://" + path.resolve(file));
  await page.waitForSelector(".u-over");
  return { page, told, close: () => context.close() };
}

const text = (page, selector) => page.locator(selector).first().innerText();

async function saved(page, figure, kind) {
  const waiting = page.waitForEvent("download");
  await page.click(`#figure-${figure} .save button[title="save as ${kind}"]`);
  const download = await waiting;
  assert.equal(download.suggestedFilename(), `${figure}.${kind}`);
  return fs.readFileSync(await download.path(), "utf8");
}

async function curves(browser, file, runs) {
  const { page, told, close } = await open(browser, file);
  const figures = ["mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy", "lr", "grad_norm", "tokens_per_second", "data_wait", "stages", "lengths", "frequencies"];
  for (const figure of figures) assert(await page.locator(`#figure-${figure} canvas`).count(), `${figure} is drawn`);

  // Hover: the figures under the mouse, in every chart at once.
  const over = page.locator("#figure-mlm_loss .u-over");
  await over.scrollIntoViewIfNeeded();
  const box = await over.boundingBox();
  const before = await text(page, "#figure-mlm_loss .readout");
  await page.mouse.move(box.x + box.width * 0.3, box.y + box.height / 2);
  await page.waitForTimeout(100);
  const hovered = await text(page, "#figure-mlm_loss .readout");
  assert(hovered.includes("step") && hovered !== before, hovered);
  assert((await text(page, "#figure-lr .readout")).includes("step"), "the other figures follow");

  // Zoom: the file then has the range that is shown; double-click gives all back.
  const rows = async () => (await saved(page, "mlm_loss", "svg")).match(/<text[^>]*text-anchor="middle"[^>]*>[^<]*</g).join();
  const all = await rows();
  await page.mouse.move(box.x + box.width * 0.25, box.y + box.height / 2);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.5, box.y + box.height / 2, { steps: 5 });
  await page.mouse.up();
  await page.waitForTimeout(100);
  const part = await rows();
  assert.notEqual(part, all, "zoomed");
  await page.locator("#figure-lr .u-over").dblclick();
  await page.waitForTimeout(400);
  assert.equal(await rows(), all, "whole again, by another figure");

  // Files.
  const csv = (await saved(page, "mlm_loss", "csv")).trim().split("\n");
  assert(csv[0].startsWith("step,") && csv.length > 10, csv[0]);
  assert(csv.every((row) => row.split(",").length === csv[0].split(",").length), "rows are equally long");
  const svg = await saved(page, "stages", "svg");
  assert(svg.startsWith("<svg ") && svg.includes("<path d=\"M") && !svg.includes("NaN"), svg.slice(0, 200));
  fs.writeFileSync(path.join(pictures, "mlm_loss.svg"), await saved(page, "mlm_loss", "svg"));
  fs.writeFileSync(path.join(pictures, "frequencies.svg"), await saved(page, "frequencies", "svg"));

  // Another axis, smoothing.
  await page.selectOption("#axis", "tokens");
  assert((await saved(page, "mlm_loss", "csv")).startsWith("tokens,"));
  await page.selectOption("#axis", "seconds");
  assert((await saved(page, "lr", "csv")).startsWith("time,"));
  await page.selectOption("#axis", "step");
  // Smoothing changes what is drawn and nothing that is told.
  const told_before = await text(page, "#figure-mlm_loss .readout");
  const drawn = await saved(page, "mlm_loss", "svg");
  await page.fill("#smooth", "0.9");
  await page.waitForTimeout(100);
  assert.notEqual(await saved(page, "mlm_loss", "svg"), drawn, "smoothed lines differ");
  assert.equal(await text(page, "#figure-mlm_loss .readout"), told_before, "figures are those recorded");
  await page.fill("#smooth", "0.6");

  // Runs on and off.
  assert.equal(await page.locator("#runs .card").count(), runs);
  assert.equal(await page.locator("#differences").isVisible(), runs > 1);
  if (runs > 1) {
    const columns = async () => (await saved(page, "mlm_loss", "csv")).split("\n")[0].split(",").length;
    const both = await columns();
    await page.locator("#runs input").first().uncheck();
    assert((await columns()) < both, "one run is hidden");
    await page.locator("#runs input").first().check();
    assert.equal(await columns(), both);
  }

  // Dark and back.
  const shade = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await shade();
  await page.click("#theme");
  assert.notEqual(await shade(), light);
  assert((await saved(page, "mlm_loss", "svg")).includes('fill="white"'), "files are on white");
  await page.click("#theme");
  assert.equal(await shade(), light);
  assert.deepEqual(told, []);
  await close();
}

async function samples(browser, file) {
  const { page, told, close } = await open(browser, file);
  assert((await page.locator("#sample button.token").count()) > 0, "predicted tokens");
  assert((await page.locator("#guesses .guess").count()) >= 5, "guesses");
  const first = await text(page, "#sample");
  assert(await page.locator("#sample-back").isDisabled());
  await page.click("#sample-on");
  assert.notEqual(await text(page, "#sample"), first);
  await page.click("#sample-back");
  assert.equal(await text(page, "#sample"), first);
  const guesses = await text(page, "#guesses");
  await page.locator("#sample button.token").nth(1).click();
  assert.notEqual(await text(page, "#guesses"), guesses);
  await page.click("#step-on");
  assert.equal(await page.inputValue("#sample-step"), "1");
  await page.click("#sample-back");
  assert.equal(await page.inputValue("#sample-step"), "0", "before the first sample is the step before");
  const runs = await page.locator("#sample-run option").count();
  await page.selectOption("#sample-run", String(runs - 1));
  assert((await page.locator("#sample button.token").count()) > 0);
  // To the end and no further.
  for (let i = 0; i < 400 && !(await page.locator("#sample-on").isDisabled()); i++) await page.click("#sample-on");
  assert(await page.locator("#sample-on").isDisabled());
  assert.deepEqual(told, []);
  await close();
}

async function photograph(browser, file, name) {
  for (const colorScheme of ["light", "dark"]) {
    for (const [shape, viewport, mobile] of [["wide", WIDE, false], ["phone", PHONE, true]]) {
      const { page, told, close } = await open(browser, file, { viewport, colorScheme, mobile });
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert(overflow <= 0, `${name} on a ${shape} screen is ${overflow} pixels too wide`);
      await page.screenshot({ path: path.join(pictures, `${name}-${shape}-${colorScheme}.png`), fullPage: true });
      assert.deepEqual(told, []);
      await close();
    }
  }
}

(async () => {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
  try {
    await curves(browser, one, 1);
    await curves(browser, two, 2);
    await samples(browser, one);
    await samples(browser, two);
    await photograph(browser, one, "one");
    await photograph(browser, two, "two");
    console.log(`good; screenshots in ${pictures}`);
  } finally {
    await browser.close();
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
