// SPDX-License-Identifier: GPL-2.0
// Filters, logs beside the table, and arrow keys. Without it everything can still be read.
"use strict";

const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const panel = document.getElementById("panel");
const subject = document.getElementById("subject");
const part = document.getElementById("name");
const buttons = all("[data-show]");
let opened = null;

document.body.classList.add("script");

/* The heads of subjects stand below those of columns. */
function measure() {
	const head = document.querySelector(".matrix thead");

	if (head)
		document.documentElement.style.setProperty("--head", head.offsetHeight + "px");
}
addEventListener("resize", measure);
measure();

/* -- filters -- */

const rows = all("tbody tr:not(.subject)").filter(row => row.closest(".matrix, .tests")).map(row => ({
	row,
	body: row.closest("tbody"),
	name: row.closest("tbody").dataset.subject + "." + row.firstChild.textContent,
	boxes: all(".box, td.excluded", row),
}));

function filter() {
	const wanted = buttons.filter(b => b.getAttribute("aria-pressed") === "true").map(b => b.dataset.show);
	const text = part.value.trim().toLowerCase();
	const bodies = new Map();
	let shown = 0;

	for (const {row, body, name, boxes} of rows) {
		const matching = boxes.filter(box => wanted.some(verdict => box.classList.contains(verdict)));
		const show = (!wanted.length || matching.length) && name.includes(text) &&
			     (!subject.value || body.dataset.subject === subject.value);

		for (const box of boxes)
			box.classList.toggle("dim", wanted.length > 0 && !matching.includes(box));
		row.hidden = !show;
		shown += show ? 1 : 0;
		bodies.set(body, bodies.get(body) || show);
	}
	for (const [body, show] of bodies)
		body.hidden = !show;
	document.getElementById("shown").textContent = shown === rows.length ? "" : `${shown} of ${rows.length} rows`;
}

for (const button of buttons)
	button.addEventListener("click", () => {
		button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
		filter();
	});
subject.addEventListener("change", filter);
part.addEventListener("input", filter);
document.getElementById("reset").addEventListener("click", () => {
	buttons.forEach(button => button.setAttribute("aria-pressed", "false"));
	subject.value = part.value = "";
	filter();
});

/* -- logs -- */

function close() {
	panel.hidden = true;
	all("a.open").forEach(link => link.classList.remove("open"));
	if (opened)
		opened.focus();
	opened = null;
}

function open(id, link) {
	const section = document.getElementById(id);
	const button = document.createElement("button");

	if (!section || !section.closest("#logs"))
		return;
	all("a.open").forEach(other => other.classList.remove("open"));
	button.className = "close";
	button.textContent = "Close (Esc)";
	button.addEventListener("click", close);
	panel.replaceChildren(button, ...[...section.childNodes].map(node => node.cloneNode(true)));
	panel.hidden = false;
	panel.scrollTop = 0;
	opened = link || all(`a[href="#${CSS.escape(id)}"]`)[0] || null;
	if (opened) {
		opened.classList.add("open");
		opened.scrollIntoView({block: "nearest", inline: "nearest"});
	}
}

document.addEventListener("click", event => {
	const link = event.target.closest('a.box[href^="#"]');

	if (!link)
		return;
	event.preventDefault();
	history.replaceState(null, "", link.getAttribute("href"));
	open(decodeURIComponent(link.hash.slice(1)), link);
});
if (location.hash)
	open(decodeURIComponent(location.hash.slice(1)));

/* -- keys -- */

function beside(link, down, right) {
	const row = link.closest("tr");
	const boxes = all("a.box", row);

	if (right)
		return boxes[boxes.indexOf(link) + right];
	const visible = rows.filter(r => !r.row.hidden && !r.body.hidden).map(r => r.row);
	const x = link.getBoundingClientRect().left;

	for (let at = visible.indexOf(row) + down; visible[at]; at += down) {
		const near = all("a.box", visible[at]).find(box => Math.abs(box.getBoundingClientRect().left - x) < 8);

		if (near)
			return near;
	}
	return null;
}

document.addEventListener("keydown", event => {
	const steps = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
	const link = document.activeElement.closest("a.box");
	const step = steps[event.key];

	if (event.key === "Escape" && !panel.hidden)
		return close();
	if (!step || !link)
		return;
	const next = beside(link, ...step);

	event.preventDefault();
	if (!next)
		return;
	next.focus();
	if (!panel.hidden)
		open(decodeURIComponent(next.hash.slice(1)), next);
});
