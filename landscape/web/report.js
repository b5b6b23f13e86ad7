// What a report does when it is pointed at: the same line or member lights up in every view.
// Rows of tables are the data: `data-l` is the number of a line, `data-m` those of members.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const numbers = (text) => (text || "").split(" ").filter(Boolean).map(Number);
  const valued = (text) => (text === "–" || text === "" ? Infinity : parseFloat(text));
  const UNIT = 4, NEAR = 14 * UNIT, MOST_ON_TOP = 400, MOST_BARS = 60;
  const svg = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };

  // Which elements show a line, and which a member; the ends of lines, and the lines of members.
  const ofLine = new Map(), ofMember = new Map(), ends = new Map(), linesOf = new Map();
  const add = (map, key, value) => (map.has(key) ? map.get(key).push(value) : map.set(key, [value]));
  for (const each of all("[data-l],[data-m]")) {
    const line = each.dataset.l, members = numbers(each.dataset.m);
    if (line === undefined) for (const member of members) add(ofMember, member, each);
    else {
      add(ofLine, +line, each);
      if (each.tagName === "TR") {
        ends.set(+line, members);
        for (const member of new Set(members)) add(linesOf, member, +line);
      }
    }
  }

  // A selection: what lights up, and what is said of it.
  const rowText = (row) => {
    const heads = all("th", row.closest("table"));
    return [...row.cells].map((cell, k) => (cell.textContent ? `${heads[k].textContent}: ${cell.textContent}` : ""))
      .filter(Boolean).join(" · ");
  };
  const row = (shown) => (shown || []).find((each) => each.tagName === "TR");
  const ofElement = (element) => {
    if (element.dataset.l !== undefined) {
      const line = +element.dataset.l, own = row(ofLine.get(line));
      return { key: `l${line}`, lines: [line], members: ends.get(line) || [], told: own ? rowText(own) : `line ${line}` };
    }
    const members = numbers(element.dataset.m), own = members.length === 1 && row(ofMember.get(members[0]));
    const lines = [...new Set(members.flatMap((member) => linesOf.get(member) || []))];
    const said = element.dataset.t || "", more = own ? rowText(own) : "";
    return { key: `m${element.dataset.m || said}`, lines, members, told: said && more ? `${said} · ${more}` : said || more };
  };
  const pair = (one, other) => {
    const between = (linesOf.get(one) || []).filter((each) => one !== other && ends.get(each).includes(other));
    const height = (line) => valued(row(ofLine.get(line)).cells[4].textContent);
    const [line] = between.sort((a, b) => height(a) - height(b));
    return line === undefined ? null : ofElement(row(ofLine.get(line)));
  };

  let current = null, lit = [];
  const kept = new Map();
  const told = document.getElementById("told"), list = document.getElementById("kept");
  const shownBy = (selection) => [
    ...selection.lines.flatMap((line) => ofLine.get(line) || []),
    ...selection.members.flatMap((member) => ofMember.get(member) || []),
  ];

  function show() {
    for (const each of lit) each.classList.remove("on", "kept");
    lit = [];
    const tops = new Map(all("svg > .top").map((top) => [top.parentNode, []]));
    for (const [selection, name] of [...[...kept.values()].map((each) => [each, "kept"]), [current, "on"]]) {
      if (!selection) continue;
      for (const each of shownBy(selection)) {
        each.classList.add(name);
        lit.push(each);
        const on = tops.get(each.closest("svg"));
        if (on && each.tagName === "path" && each.closest(".curves") && on.length < MOST_ON_TOP) on.push(...raised(each, name));
      }
      for (const [drawing, on] of tops) if (drawing.matches(".matrix")) on.push(...bars(drawing, selection, name));
    }
    for (const [drawing, on] of tops) {
      drawing.lastElementChild.replaceChildren(...on);
      drawing.classList.toggle("dim", on.length > 0);
    }
    for (const [k, key] of [...kept.keys()].entries()) list.children[k].classList.toggle("on", !!current && current.key === key);
    told.textContent = current && !kept.has(current.key) ? current.told : kept.size ? `${kept.size} kept.` : "Nothing is pointed at.";
  }
  function raised(path, name) {
    const copy = svg("path", { d: path.getAttribute("d"), class: `${path.parentNode.getAttribute("class")} ${name}` });
    if (!path.dataset.p || name === "kept") return [copy];
    const [x, y] = numbers(path.dataset.p);
    return [copy, svg("circle", { cx: x, cy: y, r: 5 * UNIT, class: "peak" })];
  }
  function bars(drawing, selection, name) {
    const order = numbers(drawing.dataset.members), [left, top, width, height] = numbers(drawing.dataset.box);
    const step = width / order.length, at = selection.members.map((each) => order.indexOf(each)).filter((each) => each >= 0);
    const box = (x, y, w, h) => svg("rect", { x, y, width: w, height: h, class: `frame ${name}` });
    if (selection.lines.length === 1 && at.length === 2)
      return [[at[0], at[1]], [at[1], at[0]]].map(([i, j]) => box(left + j * step, top + i * step, step, step));
    return at.slice(0, MOST_BARS).flatMap((i) => [box(left, top + i * step, width, step), box(left + i * step, top, step, height)]);
  }
  function point(selection) {
    if ((selection && selection.key) === (current && current.key) && (!selection || selection.told === current.told)) return;
    current = selection;
    show();
  }
  function keep(selection) {
    if (!selection || !selection.key) return;
    if (!kept.delete(selection.key)) kept.set(selection.key, selection);
    list.replaceChildren(...[...kept.values()].map((each) => {
      const item = document.createElement("li"), button = document.createElement("button");
      Object.assign(button, { textContent: "×", onclick: () => keep(each) });
      button.setAttribute("aria-label", `let go of ${each.told}`);
      item.append(button, ` ${each.told}`);
      return item;
    }));
    show();
  }

  // The curve that lies nearest to the pointer.
  const places = new Map();
  const strokes = (path) => {
    if (!places.has(path)) {
      const found = [], tokens = path.getAttribute("d").match(/[MlL]|-?\d+/g) || [];
      let x = 0, y = 0, relative = false, stroke = null;
      for (let k = 0; k < tokens.length; ) {
        if (/[MlL]/.test(tokens[k])) {
          relative = tokens[k] === "l";
          if (tokens[k++] === "M") found.push((stroke = []));
          continue;
        }
        x = +tokens[k++] + (relative ? x : 0);
        y = +tokens[k++] + (relative ? y : 0);
        stroke.push([x, y]);
      }
      places.set(path, found);
    }
    return places.get(path);
  };
  const distance = (path, x, y) => {
    let least = Infinity;
    for (const stroke of strokes(path)) {
      let low = 0, high = stroke.length - 1;
      if (!stroke.length || x < stroke[0][0] - NEAR || x > stroke[high][0] + NEAR) continue;
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (stroke[middle][0] <= x) low = middle;
        else high = middle;
      }
      const [a, b] = [stroke[low], stroke[high]], run = b[0] - a[0], share = run ? Math.min(Math.max((x - a[0]) / run, 0), 1) : 0;
      const slope = run ? (b[1] - a[1]) / run : 0;
      least = Math.min(least, Math.abs(a[1] + share * (b[1] - a[1]) - y) / Math.hypot(1, slope));
    }
    return least;
  };
  const within = (drawing, event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.getScreenCTM().inverse());
    return [at.x, at.y];
  };
  function nearest(drawing, event) {
    const [x, y] = within(drawing, event);
    let best = null, least = NEAR;
    for (const path of all("path[data-l]:not(.out),path[data-m]:not(.out)", drawing)) {
      const away = distance(path, x, y);
      if (away < least) [best, least] = [path, away];
    }
    return best && ofElement(best);
  }
  function cellAt(drawing, event, columns, rows) {
    const [left, top, width, height] = numbers(drawing.dataset.box), [x, y] = within(drawing, event);
    const at = [Math.floor(((x - left) / width) * columns), Math.floor(((y - top) / height) * rows)];
    return at[0] >= 0 && at[0] < columns && at[1] >= 0 && at[1] < rows ? at : null;
  }
  function inMatrix(drawing, event) {
    const order = numbers(drawing.dataset.members), at = cellAt(drawing, event, order.length, order.length);
    return at && pair(order[at[1]], order[at[0]]);
  }
  function inPlane(drawing, event) {
    const [columns, rows] = numbers(drawing.dataset.shape), at = columns && cellAt(drawing, event, columns, rows);
    if (!at) return null;
    const values = drawing.dataset.values.split(" "), [x0, x1, y0, y1] = numbers(drawing.dataset.range);
    const x = x0 + ((x1 - x0) * at[0]) / Math.max(columns - 1, 1), y = y1 - ((y1 - y0) * at[1]) / Math.max(rows - 1, 1);
    return { key: "", lines: [], members: [], told: `x ${x.toPrecision(3)}, y ${y.toPrecision(3)}: loss ${values[at[1] * columns + at[0]]}` };
  }
  const pointed = (event) => {
    const drawing = event.target.closest("svg"), own = event.target.closest("[data-l],[data-m]");
    if (drawing && drawing.matches(".curves")) return nearest(drawing, event);
    if (drawing && drawing.matches(".matrix")) return inMatrix(drawing, event);
    if (own) return ofElement(own);
    return drawing && drawing.matches(".plane") ? inPlane(drawing, event) : null;
  };
  document.addEventListener("pointermove", (event) => event.target.closest && !event.target.closest("aside,.slider") && point(pointed(event)));
  document.addEventListener("click", (event) => {
    if (event.target.closest("svg,tr[data-l],tr[data-m],.card")) keep(pointed(event));
  });

  // The keyboard: arrows move along lines in the order of their table, Enter keeps, Escape clears.
  const visible = (rows) => rows.filter((each) => !each.hidden);
  const rowsOfLines = () => visible(all("tr[data-l]"));
  function items(focused) {
    if (focused.matches(".scroll")) return visible(all("tbody tr", focused));
    if (focused.matches(".matrix")) {
      const order = new Set(numbers(focused.dataset.members));
      return rowsOfLines().filter((each) => numbers(each.dataset.m).every((member) => order.has(member)));
    }
    const own = all("[data-l],[data-m]", focused).filter((each) => !each.classList.contains("out"));
    const lines = new Set(own.map((each) => each.dataset.l).filter((each) => each !== undefined));
    return lines.size ? rowsOfLines().filter((each) => lines.has(each.dataset.l)) : own;
  }
  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      kept.clear();
      list.replaceChildren();
      current = null;
      return show();
    }
    const focused = event.target.closest && event.target.closest("svg[tabindex],.scroll,.card");
    if (!focused || event.target.matches("input,button")) return;
    if (event.key === "Enter" || event.key === " ") {
      keep(current);
      event.preventDefault();
    } else if (event.key in STEPS && !focused.matches(".card")) {
      const those = items(focused), now = current ? those.findIndex((each) => ofElement(each).key === current.key) : -1;
      const next = Math.min(Math.max(now < 0 && event.key !== "End" ? 0 : now + STEPS[event.key], 0), those.length - 1);
      if (those.length) point(ofElement(those[next]));
      if (focused.matches(".scroll") && those.length) those[next].scrollIntoView({ block: "nearest" });
      event.preventDefault();
    }
  });
  document.addEventListener("focusin", (event) => event.target.matches(".card") && point(ofElement(event.target)));

  // Tables sort by a click on a head, and filter by words and comparisons, of what before the sign begins a head.
  const order = new Intl.Collator("en", { numeric: true });
  for (const button of all("th button"))
    button.addEventListener("click", () => {
      const head = button.parentNode, body = head.closest("table").tBodies[0], k = head.cellIndex;
      const down = head.getAttribute("aria-sort") === "ascending", sign = down ? -1 : 1;
      for (const each of all("th", head.parentNode)) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = [...body.rows].map((each) => [each.cells[k].textContent, each]);
      const numeric = keyed.every(([text]) => !Number.isNaN(valued(text)));
      keyed.sort(([a], [b]) => sign * (numeric ? valued(a) - valued(b) || 0 : order.compare(a, b)));
      body.append(...keyed.map(([, each]) => each));
    });
  const COMPARED = /([^<>=!]*)(<=|>=|!=|==?|<|>)\s*("[^"]*"|[^\s<>=!]*)/g;
  const HOLDS = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b };
  function matching(written, heads, cells) {
    const tests = [], wrong = [];
    const phrase = written.toLowerCase().replace(COMPARED, (_, before, sign, quoted) => {
      const words = before.split(/\s+/).filter(Boolean), value = quoted.replaceAll('"', ""), number = +(value || "?");
      const called = (name) => [heads.indexOf(name), heads.findIndex((head) => head.startsWith(name))].find((k) => k >= 0);
      const found = words.findIndex((_, k) => called(words.slice(k).join("")) !== undefined);
      const k = found < 0 ? -1 : called(words.splice(found).join("")), all = cells.map((texts) => valued(texts[k] || "?"));
      const ordered = sign in HOLDS, equal = (text) => text === value || (!ordered && valued(text) === number);
      if (k < 0) wrong.push(`no column is called ${words.pop() || "nothing"}`);
      else if (!value) wrong.push(`nothing stands behind ${sign}`);
      else if (ordered && all.length && all.every(Number.isNaN)) wrong.push("that column has no numbers");
      else if (Number.isNaN(number) && value !== "–" && (ordered || !all.some(Number.isNaN)))
        wrong.push(`${value} is no number`);
      tests.push((texts) => (ordered ? HOLDS[sign](valued(texts[k]), number) : equal(texts[k]) !== (sign === "!=")));
      return ` ${words.join(" ")} `;
    }).replace(/\s+/g, " ").trim();
    if (phrase) {
      const found = new RegExp(`(^|[/@])${phrase.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}${/\d$/.test(phrase) ? "(?!\\d)" : ""}`);
      tests.push((texts) => texts.some((text) => found.test(text)));
    }
    return [(texts) => !wrong.length && tests.every((test) => test(texts)), wrong.join("; ")];
  }
  for (const field of all(".filter input"))
    field.addEventListener("input", () => {
      const table = field.closest(".table"), rows = all("tbody tr", table), output = table.querySelector("output");
      const heads = all("th", table).map((each) => each.textContent.toLowerCase().replace(/\s/g, ""));
      const cells = rows.map((each) => [...each.cells].map((cell) => cell.textContent.toLowerCase()));
      const [holds, wrong] = matching(field.value, heads, cells);
      for (const [k, each] of rows.entries()) {
        each.hidden = !holds(cells[k]);
        const shown = each.dataset.l === undefined ? ofMember.get(+each.dataset.m) : ofLine.get(+each.dataset.l);
        for (const one of shown || [])
          if (one !== each && numbers(one.dataset.m).length < 2) one.classList.toggle("out", each.hidden);
      }
      output.dataset.all = output.dataset.all || output.textContent;
      output.textContent = field.value.trim() ? `${visible(rows).length} of ${rows.length}${wrong && `: ${wrong}`}` : output.dataset.all;
    });

  // A slider moves along the checkpoints of a trajectory.
  for (const slide of all(".slider input")) {
    const at = JSON.parse(slide.dataset.at), said = JSON.parse(slide.dataset.told);
    const here = document.getElementById(slide.dataset.here), output = slide.closest(".slider").querySelector("output");
    const move = () => {
      const [x, y, member] = at[+slide.value];
      here.setAttribute("cx", x);
      here.setAttribute("cy", y);
      slide.ariaValueText = output.textContent = said[+slide.value];
      return { key: `m${member}`, lines: linesOf.get(member) || [], members: [member], told: said[+slide.value] };
    };
    slide.addEventListener("input", () => point(move()));
    move();
  }

  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  document.getElementById("theme").addEventListener("click", () =>
    (root.dataset.theme = (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark" ? "light" : "dark"));
})();
