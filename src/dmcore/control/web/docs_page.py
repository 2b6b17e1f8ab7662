"""`/docs`: a page that shows `/openapi.json`, made of nothing but itself. It works where there is no Internet."""

import base64
import hashlib

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
h2 { margin: 2rem 0 .5rem; text-transform: capitalize }
details { border: 1px solid #d0d7de; border-radius: 6px; margin: .4rem 0; padding: .4rem .8rem }
summary { cursor: pointer } code { font-family: ui-monospace, monospace } pre { overflow-x: auto; background: #f6f8fa }
.method { display: inline-block; width: 4.5rem; font-weight: 600 } .by { color: #57606a; float: right }
@media (prefers-color-scheme: dark) { body { background: #0d1117; color: #e6edf3 } pre { background: #161b22 } }
"""

SCRIPT = """
"use strict";
const make = (name, text, kind) => {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};
const named = (schema) => (schema && schema.$ref ? schema.$ref.split("/").pop() : null);
const bodyOf = (holder) => {
  const content = holder && holder.content && holder.content["application/json"];
  return content ? content.schema : null;
};
const line = (label, schema) => {
  const made = make("p", label + ": ");
  if (named(schema)) {
    const link = make("a", named(schema));
    link.href = "#" + named(schema);
    made.append(link);
  } else made.append(make("code", schema ? JSON.stringify(schema) : "nothing"));
  return made;
};
const operation = (method, path, told) => {
  const box = make("details"), head = make("summary");
  head.append(make("span", method.toUpperCase(), "method"), make("code", path));
  const who = (told.security || []).flatMap(Object.keys).join(" or ") || "anybody";
  head.append(make("span", who, "by"));
  box.append(head, make("p", told.description || told.summary));
  for (const each of told.parameters || [])
    box.append(line(each.in + " " + each.name + (each.required ? "" : " (may be left out)"), each.schema));
  if (told.requestBody) box.append(line("body", bodyOf(told.requestBody)));
  for (const [status, answer] of Object.entries(told.responses || {}))
    box.append(line(status + " " + answer.description, bodyOf(answer)));
  return box;
};
const show = (api) => {
  const page = document.getElementById("api"), tags = new Map();
  page.replaceChildren(make("h1", api.info.title + " " + api.info.version), make("p", api.info.description));
  for (const [path, methods] of Object.entries(api.paths))
    for (const [method, told] of Object.entries(methods)) {
      const tag = (told.tags || ["other"])[0];
      if (!tags.has(tag)) tags.set(tag, []);
      tags.get(tag).push(operation(method, path, told));
    }
  for (const [tag, boxes] of tags) page.append(make("h2", tag), ...boxes);
  page.append(make("h2", "messages"));
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    const box = make("details"), head = make("summary");
    box.id = name;
    head.append(make("code", name));
    box.append(head, make("pre", JSON.stringify(schema, null, 2)));
    page.append(box);
  }
};
const open = () => {
  const there = document.getElementById(location.hash.slice(1));
  if (there) there.open = true;
};
window.addEventListener("hashchange", open);
fetch("/openapi.json").then((answer) => answer.json()).then(show).then(open)
  .catch((problem) => { document.getElementById("api").textContent = "Cannot show /openapi.json: " + problem; });
"""

PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>dmcore control plane API</title><style>{STYLE}</style></head>
<body><main id="api">This page needs JavaScript; <a href="/openapi.json">/openapi.json</a> says the same.</main>
<script>{SCRIPT}</script></body></html>
"""


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; script-src {_digest(SCRIPT)}; style-src {_digest(STYLE)}; connect-src 'self';"
    " frame-ancestors 'none'"
)
"""Only the page's own script and style run."""
