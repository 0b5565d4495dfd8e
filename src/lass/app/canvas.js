// Drawing of several digits over each other: the canvas shows their mean. The value of the component is a list of
// digits, each a list of strokes, each a list of points [x, y] in [0, 1]; see lass/app/drawing.py.

const canvas = element.querySelector("canvas");
const pens = element.querySelector(".lass-pens");
const LINE_WIDTH = (2.5 / 28) * canvas.width;
let digits = [];
let current = 0; // the digit that is drawn
let stroke = null; // the stroke that is drawn

const num_drawn = () => digits.filter((digit) => digit.length).length;

function draw_digit(digit) {
  const layer = document.createElement("canvas");
  layer.width = canvas.width;
  layer.height = canvas.height;
  const pen = layer.getContext("2d");
  pen.strokeStyle = "#fff";
  pen.lineWidth = LINE_WIDTH;
  pen.lineCap = pen.lineJoin = "round";
  for (const points of digit) {
    pen.beginPath();
    points.forEach(([x, y], i) => pen[i ? "lineTo" : "moveTo"](x * layer.width, y * layer.height));
    if (points.length === 1) pen.lineTo(points[0][0] * layer.width, points[0][1] * layer.height);
    pen.stroke();
  }
  return layer;
}

function show() {
  const context = canvas.getContext("2d");
  context.globalCompositeOperation = "source-over";
  context.globalAlpha = 1;
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "lighter";
  context.globalAlpha = 1 / Math.max(2, num_drawn());
  for (const digit of digits) context.drawImage(draw_digit(digit), 0, 0);
  [...pens.children].forEach((button, i) => {
    button.setAttribute("aria-pressed", String(i === current));
    button.classList.toggle("lass-drawn", digits[i].length > 0);
  });
}

function give() {
  props.value = digits.filter((digit) => digit.length).map((digit) => digit.map((points) => points.slice()));
  trigger("change");
}

function set_pens() {
  const most = props.num_digits;
  while (pens.children.length > most) pens.lastChild.remove();
  while (pens.children.length < most) {
    const button = document.createElement("button");
    const number = pens.children.length;
    button.type = "button";
    button.textContent = String(number + 1);
    button.setAttribute("aria-label", `Digit ${number + 1}`);
    button.addEventListener("click", () => {
      current = number;
      show();
    });
    pens.append(button);
  }
  digits = Array.from({ length: most }, (_, i) => digits[i] ?? []);
  current = Math.min(current, most - 1);
  show();
}

function point(event) {
  const box = canvas.getBoundingClientRect();
  const clamped = (value) => Math.round(Math.min(1, Math.max(0, value)) * 1e4) / 1e4;
  return [clamped((event.clientX - box.left) / box.width), clamped((event.clientY - box.top) / box.height)];
}

canvas.addEventListener("pointerdown", (event) => {
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  stroke = [point(event)];
  digits[current].push(stroke);
  show();
});
canvas.addEventListener("pointermove", (event) => {
  if (!stroke) return;
  for (const each of event.getCoalescedEvents?.() ?? [event]) stroke.push(point(each));
  show();
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, () => {
    if (!stroke) return;
    stroke = null;
    give();
  });
}
element.querySelector(".lass-undo").addEventListener("click", () => {
  digits[current].pop();
  show();
  give();
});
element.querySelector(".lass-clear").addEventListener("click", () => {
  digits = digits.map(() => []);
  current = 0;
  show();
  give();
});
watch("num_digits", set_pens);
set_pens();
