// The little that a page needs which changes a few numbers a second: make nodes once, then touch only what differs.

/** A node with attributes (`class`, `aria-…`, `on…` handlers) and children. */
export function el(tag, attributes = {}, ...children) {
  const node = tag.startsWith('svg:') ? document.createElementNS('http://www.w3.org/2000/svg', tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, '');
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter(child => child != null));
  return node;
}

export function text(node, value) {
  value = String(value);
  if (node.textContent !== value) node.textContent = value;
}

/** Sets an attribute if it differs; null or false removes it. */
export function attr(node, name, value) {
  if (value == null || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else {
    value = value === true ? '' : String(value);
    if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
}

/**
 * Makes the children of `parent` be those of `items`, in that order: a node an item, kept by its key, so that focus,
 * selection and scroll survive. `make` returns `{ node, update(item) }`.
 */
export function keyed(parent, items, key, make) {
  const known = parent.keyedNodes ??= new Map();
  const wanted = new Set();
  let at = parent.firstElementChild;
  for (const item of items) {
    const id = key(item);
    if (wanted.has(id)) continue;
    wanted.add(id);
    let part = known.get(id);
    if (!part) known.set(id, part = make(item));
    part.update?.(item);
    if (part.node === at) at = at.nextElementSibling;
    else parent.insertBefore(part.node, at);
  }
  for (const [id, part] of known) {
    if (!wanted.has(id)) {
      part.node.remove();
      known.delete(id);
    }
  }
}

export const byId = id => document.getElementById(id);
