// A chart over time, drawn by uPlot in the colours of the page.

import uPlot from "uplot";
import { useEffect, useRef } from "preact/hooks";
import { html } from "./ui.js";

const HEIGHT = 170;
const HOUR = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

/** The colour *name* of the page as the canvas knows it, which is no `light-dark()`: the one that an element has. */
function painted(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

const faded = (name, share) => {
  const [r, g, b] = painted(name).match(/[\d.]+/g);
  return `rgba(${r}, ${g}, ${b}, ${share})`;
};

/**
 * Lines over time. *data*: seconds, then the values of each of *series*, `{label, colour}`; `show` makes a value text.
 * `says` is what the picture says, for who does not see it.
 */
export function Chart({ data, series, show, says }) {
  const box = useRef();
  const chart = useRef(null);
  useEffect(() => {
    const place = box.current;
    const make = () => {
      const shown = chart.current?.data ?? data;
      chart.current?.destroy();
      chart.current = new uPlot(options(series, show, place.clientWidth), shown, place);
    };
    make();
    const sizes = new ResizeObserver(() => chart.current.setSize({ width: place.clientWidth, height: HEIGHT }));
    sizes.observe(place);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    window.addEventListener("tq-theme", make);
    scheme.addEventListener("change", make);
    return () => {
      sizes.disconnect();
      window.removeEventListener("tq-theme", make);
      scheme.removeEventListener("change", make);
      chart.current.destroy();
      chart.current = null;
    };
  }, []);
  useEffect(() => chart.current?.setData(data), [data]);
  return html`<figure class="chart"><div class="plot" ref=${box} role="img" aria-label=${says}></div>
    <figcaption>${series.map(each => html`<span key=${each.label} class=${`key ${each.colour}`}>${each.label}</span>`)}</figcaption></figure>`;
}

function options(series, show, width) {
  const axis = { stroke: painted("quiet"), font: "11px system-ui", ticks: { show: false } };
  return {
    width,
    height: HEIGHT,
    padding: [8, 18, 0, 0],
    cursor: { drag: { x: false, y: false }, points: { size: 5 } },
    legend: { show: false },
    scales: { y: { range: (_, low, high) => [0, (high || 1) * 1.15] } },
    axes: [
      { ...axis, size: 26, space: 70, values: (_, seconds) => seconds.map(each => HOUR.format(each * 1000)), grid: { show: false } },
      { ...axis, size: 58, space: 36, values: (_, ticks) => ticks.map(show), grid: { stroke: faded("quiet", 0.18), width: 1 } },
    ],
    series: [
      {},
      ...series.map(each => ({
        label: each.label,
        stroke: painted(each.colour),
        fill: each.fill ? faded(each.colour, 0.14) : undefined,
        width: 1.5,
        points: { show: false },
        spanGaps: !each.fill,
      })),
    ],
  };
}
