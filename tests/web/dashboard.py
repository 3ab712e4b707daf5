#!/usr/bin/env python3
"""The dashboard in a real Chromium, over a made-up gateway.

    tests/web/dashboard.py FAKE [-v] [TEST…]

FAKE is the built example `fake` of the crate tidegate-admin. `scripts/test-web` builds it and calls this.
"""

import os
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from browser import Browser, wait_for  # noqa: E402
from gateway import Gateway  # noqa: E402

FAKE = ""
POOLS = {"ranker-v1": 4, "ranker-v2": 2, "sentiment": 6, "embeddings": 24, "chat": 1}


def member(upstream, address):
    return f'[data-upstream="{upstream}"] [data-member="{address}"]'


class Page(unittest.TestCase):
    """A fresh gateway and page for each test; one browser for all."""

    gateway_arguments = ()

    @classmethod
    def setUpClass(cls):
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.__exit__)

    def setUp(self):
        self.gateway = Gateway(FAKE, "127.0.0.1:0", *self.gateway_arguments)
        self.addCleanup(self.gateway.kill)
        self.browser.size(1400, 1000)
        self.browser.open("about:blank")
        self.browser.complaints()

    def show(self):
        self.browser.open(self.gateway.url)
        self.wait_for_text("#ready", "ready")

    def tearDown(self):
        # The page's polls end with the page, before the gateway ends: what is left on the console is its own.
        self.browser.open("about:blank")
        self.assertEqual(self.complaints(), [])

    def complaints(self):
        return self.browser.complaints()

    def text(self, selector):
        return self.browser.text(selector)

    def count(self, selector):
        return self.browser.run("return document.querySelectorAll(arguments[0]).length", selector)

    def wait_for_text(self, selector, part, seconds=15.0):
        def there():
            shown = self.text(selector)
            return shown if shown is not None and part in shown else None

        return wait_for(f"{part!r} in {selector}, which says {self.text(selector)!r}", there, seconds)


class Shows(Page):
    def test_every_member_of_every_upstream_is_there_with_its_numbers(self):
        self.show()
        for upstream, members in POOLS.items():
            if members > 12:
                self.assertEqual(self.count(f'[data-upstream="{upstream}"] tbody tr'), 8, "a large pool shows some")
                self.assertEqual(self.count(f'[data-upstream="{upstream}"] .strip i'), members, "and a cell for each")
                self.browser.click(f'[data-upstream="{upstream}"] .more')
            self.assertEqual(self.count(f'[data-upstream="{upstream}"] tbody tr'), members)
        row = member("ranker-v1", "10.0.1.2:8500")
        wait_for("a rate", lambda: float(self.text(f'{row} [data-cell="rate"]').strip("–") or 0) > 10)
        self.assertEqual(self.text(f'{row} [data-cell="state"]'), "healthy")
        self.assertEqual(self.text(f'{row} [data-cell="zone"]'), "eu/b")
        self.assertEqual(self.text(f'{row} [data-cell="weight"]'), "1")
        self.assertRegex(self.text(f'{row} [data-cell="ewma"]'), r"^\d+\.\d+ ms$")

    def test_routes_show_rate_quantiles_and_the_split_as_it_is(self):
        self.show()
        row = '[data-route="ranker"]'
        wait_for("a rate", lambda: self.text(f'{row} [data-cell="rate"]') not in ("–", "0/s"))
        split = self.wait_for_text(f'{row} [data-cell="split"]', "ranker-v2")
        share = int(split.split("ranker-v1 ")[1].split("%")[0])
        self.assertTrue(84 <= share <= 96, split)
        p50, p99 = (float(self.text(f'{row} [data-cell="{q}"]').split()[0]) for q in ("p50", "p99"))
        self.assertTrue(3 < p50 < 12 < p99, (p50, p99))
        wait_for("a drawn sparkline", lambda: self.browser.run(
            "return (document.querySelector('[data-route=\"ranker\"] .line').getAttribute('d') ?? '').length > 20"))

    def test_a_state_change_shows_with_cause_return_event_and_title(self):
        self.show()
        row = member("ranker-v1", "10.0.1.3:8500")
        self.gateway.do("set ranker-v1 10.0.1.3:8500 ejected 30000 5 consecutive 5xx")
        begun = time.monotonic()
        self.wait_for_text(f'{row} [data-cell="state"]', "ejected")
        self.assertLess(time.monotonic() - begun, 3)
        self.assertEqual(self.text(f'{row} [data-cell="cause"]'), "5 consecutive 5xx")
        self.assertRegex(self.text(f'{row} [data-cell="returns"]'), r"^(2\d|30) s$")
        self.assertIn("3 of 4 healthy · 1 ejected", self.text('[data-upstream="ranker-v1"] .tally'))
        self.assertIn("member ejected", self.text("#events li:first-child"))
        self.assertIn("10.0.1.3:8500", self.text("#events li:first-child"))
        self.assertEqual(self.browser.run("return document.title"), "1 ejected · Tidegate")
        self.gateway.do("set ranker-v1 10.0.1.3:8500 healthy 0")
        self.wait_for_text(f'{row} [data-cell="state"]', "healthy")
        self.wait_for_text('[data-upstream="ranker-v1"] .tally', "4 members")

    def test_keys_of_providers_show_state_cause_and_return_and_can_be_used_again(self):
        self.show()
        self.assertEqual(self.count("[data-provider]"), 2)
        row = '[data-provider="qwen"] [data-key="sk-…9f3c"]'
        wait_for("a rate", lambda: float(self.text(f'{row} [data-cell="rate"]').strip("–") or 0) > 1)
        self.assertEqual(self.text(f'{row} [data-cell="again"]'), "")
        self.gateway.do("key qwen sk-…9f3c ejected 29000 limited")
        self.wait_for_text(f'{row} [data-cell="state"]', "ejected")
        self.assertIn("limited", self.text(f'{row} [data-cell="cause"]'))
        self.assertRegex(self.text(f'{row} [data-cell="returns"]'), r"^2\d s$")
        self.assertIn("2 of 3 healthy · 1 ejected", self.text('[data-provider="qwen"] .tally'))
        self.assertIn("sk-…9f3c", self.text("#events li:first-child"))
        self.assertEqual(self.browser.run("return document.title"), "1 ejected · Tidegate")
        self.browser.click(f"{row} button")
        self.wait_for_text(f'{row} [data-cell="state"]', "healthy")
        self.gateway.do("key claude sk-…c1a0 ejected 0 key dead")
        self.wait_for_text('[data-provider="claude"] td[data-cell="returns"]', "probed")

    def test_members_come_and_go_without_a_reload_of_the_page(self):
        self.show()
        self.gateway.do("add ranker-v2 10.0.2.9:8500")
        wait_for("the new member", lambda: self.count(member("ranker-v2", "10.0.2.9:8500")) == 1)
        self.gateway.do("remove ranker-v2 10.0.2.1:8500")
        wait_for("the old one gone", lambda: self.count(member("ranker-v2", "10.0.2.1:8500")) == 0)
        self.assertIn("member removed", self.text("#events li:first-child"))

    def test_a_troubled_member_of_a_large_pool_comes_to_the_top(self):
        self.show()
        self.gateway.do("set embeddings 10.0.4.20:8500 ejected 0 connect refused")
        first = '[data-upstream="embeddings"] tbody tr:first-child'
        wait_for("it first", lambda: self.browser.run(
            "return document.querySelector(arguments[0]).dataset.member", first) == "10.0.4.20:8500")

    def test_not_ready_is_told_with_the_reason(self):
        self.show()
        self.gateway.do("unready draining, 12 requests left")
        self.wait_for_text("#ready", "not ready: draining, 12 requests left")
        self.assertEqual(self.browser.run("return document.querySelector('#spoken').textContent"),
                         "not ready: draining, 12 requests left")

    def test_text_from_the_gateway_is_never_markup(self):
        self.show()
        self.gateway.do('set chat unix:/run/models/chat.sock ejected 0 <img src=x onerror="window.hacked=1"><b>bold</b>')
        self.wait_for_text('[data-upstream="chat"] td[data-cell="cause"]', "<b>bold</b>")
        self.wait_for_text("#events", "<b>bold</b>")
        self.assertEqual(self.count("#content img, #content b"), 0)

    def test_the_configuration_shows_and_a_refused_reload_tells_its_diagnostics(self):
        self.show()
        self.browser.click("#open-config")
        self.wait_for_text("#config-text", '"address": "127.0.0.1:9900"')
        self.browser.click("#reload")
        self.wait_for_text("#reload-answer", "accepted: generation 2")
        self.gateway.do("refuse tidegate.yaml:3:5: unknown key rotues")
        self.gateway.do("event probe main refusing now")
        self.wait_for_text("#events", "refusing now")
        self.browser.click("#reload")
        self.wait_for_text("#reload-answer", "the configuration was refused")
        self.wait_for_text("#config-refused", "unknown key rotues")
        self.browser.click("#config-close")
        self.wait_for_text("#notices", "The last reload was refused")
        self.assertIn("unknown key rotues", self.text("#notices"))

    def complaints(self):
        # The refused reload is a 422, which the browser itself writes on the console.
        return [line for line in super().complaints() if "status of 422" not in line]


class Works(Page):
    def test_the_keyboard_reaches_filter_sorting_and_configuration(self):
        self.show()
        focused = "return document.activeElement.id || document.activeElement.textContent"
        self.browser.keys("/")
        self.assertEqual(self.browser.run(focused), "filter")
        self.browser.keys(*"sentim")
        wait_for("one upstream", lambda: self.count(".upstream") == 1)
        self.assertEqual(self.count("#routes tbody tr"), 1)
        self.browser.keys("\ue00c")
        wait_for("all upstreams again", lambda: self.count(".upstream") == len(POOLS))
        self.browser.run("document.querySelector('#theme').focus()")
        seen = []
        for _ in range(40):
            self.browser.keys("\ue004")
            seen.append(self.browser.run(focused))
            if seen[-1] == "Rate":
                break
        self.assertEqual(seen[-1], "Rate", seen)
        self.browser.keys("\ue007")
        wait_for("sorted by rate", lambda: self.count('th[data-cell="rate"][aria-sort="ascending"]') == len(POOLS))
        self.browser.run("document.querySelector('#open-config').focus()")
        self.browser.keys("\ue007")
        wait_for("the dialog", lambda: self.count("#config-dialog[open]") == 1)
        self.browser.keys("\ue00c")
        wait_for("it closed", lambda: self.count("#config-dialog[open]") == 0)

    def test_trouble_only_hides_what_is_healthy(self):
        self.show()
        self.browser.click("#trouble")
        self.wait_for_text("#upstreams-none", "every member is healthy")
        self.gateway.do("set sentiment 10.0.3.2:8500 draining 0 deregistered")
        wait_for("the one", lambda: self.count("#upstreams tbody tr") == 1)

    def test_nothing_sticks_out_at_any_width_in_either_theme(self):
        self.gateway.do("add sentiment a-very-long-host-name.with.many.labels.in.some.cluster.example.internal:65535")
        self.gateway.do("set sentiment 10.0.3.2:8500 ejected 9000 a long cause: " + "success rate below the mean " * 6)
        self.show()
        for theme in ("light", "dark"):
            self.browser.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
            for width in (320, 390, 600, 768, 900, 1000, 1240, 1280, 1440, 2200):
                self.browser.size(width, 900)
                wide = self.browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
                self.assertLessEqual(wide, 0, f"{width} wide")
                cut = self.browser.run(
                    "return [...document.querySelectorAll('.card')].filter(c => !c.closest('.right')"
                    " && c.scrollWidth > c.clientWidth + 1).map(c => c.className)")
                self.assertEqual(cut, [], f"{width} wide")
                split = self.browser.run(
                    "return [...document.querySelectorAll('#routes td[data-cell=\"split\"], #routes .to')]"
                    ".filter(c => c.scrollWidth > c.clientWidth + 1).map(c => c.textContent)")
                self.assertEqual(split, [], f"{width} wide")

    def test_every_colour_of_text_is_readable_in_both_themes(self):
        self.show()
        script = """
          const rgb = name => {
            const probe = document.body.appendChild(document.createElement('i'));
            probe.style.color = `var(${name})`;
            const found = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
            probe.remove();
            return found;
          };
          const light = c => c.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
          const contrast = (a, b) => { const [x, y] = [light(rgb(a)), light(rgb(b))].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
          const low = [];
          for (const text of ['--text', '--soft', '--main', '--good', '--warn', '--bad', '--other', '--off'])
            for (const ground of ['--card', '--page', '--raised'])
              if (contrast(text, ground) < 4.5) low.push([text, ground, contrast(text, ground)]);
          return low;"""
        for _ in range(3):
            self.browser.click("#theme")
            self.assertEqual(self.browser.run(script), [], self.text("#theme"))

    def test_the_content_security_policy_holds_against_what_is_put_into_the_page(self):
        self.show()
        self.browser.run("""
          const script = document.createElement('script');
          script.textContent = 'window.hacked = 1';
          document.body.append(script);
          const button = document.createElement('div');
          button.setAttribute('onclick', 'window.hacked = 2');
          document.body.append(button);
          button.click();""")
        self.assertIsNone(self.browser.run("return window.hacked ?? null"))
        told = wait_for("complaints", self.browser.complaints)
        self.assertTrue(all("Content Security Policy" in line for line in told), told)

    def test_a_restarted_gateway_is_found_again(self):
        self.show()
        self.gateway.do("event member_added ranker-v1 before the restart")
        self.wait_for_text("#events", "before the restart")
        address = self.gateway.address
        self.gateway.kill()
        self.wait_for_text("#ready", "no answer")
        self.wait_for_text("#notices", "No answer from the gateway")
        self.gateway = Gateway(FAKE, address)
        self.addCleanup(self.gateway.kill)
        self.wait_for_text("#ready", "ready")
        wait_for("no notice", lambda: self.count("#notices .notice") == 0)
        self.assertIn("gateway started", self.text("#events"))
        self.assertIn("before the restart", self.text("#events"), "what was seen stays")
        shown = self.browser.run("return [...document.querySelectorAll('#events li')].map(e => [e.querySelector('time').dateTime, e.dataset.kind])")
        self.assertEqual([at for at, _ in shown], sorted((at for at, _ in shown), reverse=True), "the newest first")
        kinds = [kind for _, kind in shown]
        started = kinds.index("gateway_started")
        self.assertGreater(started, kinds.index("config_loaded"), "the new run's own events follow its start")
        self.assertLess(started, kinds.index("connection_lost"), kinds)
        rate = wait_for("a rate", lambda: (self.text('[data-tile="requests"] .big') or "–").strip("/s–"))
        self.assertTrue(0 < float(rate) < 3000, rate)
        refused = [line for line in self.browser.complaints() if "ERR_" not in line]
        self.assertEqual(refused, [], "only refused connections")

    def test_a_page_left_open_does_not_grow(self):
        self.show()
        wait_for("rates", lambda: self.text('[data-tile="requests"] .big') not in ("–", None))
        before = self.count("*")
        up = self.text("#uptime")
        wait_for("some more polls", lambda: self.text("#uptime") != up)
        self.assertEqual(self.count("*"), before)


class Large(Page):
    gateway_arguments = ("--members", "1000")

    def test_a_thousand_members_keep_up(self):
        self.show()
        self.assertEqual(self.count('[data-upstream="fleet"] .strip i'), 1000)
        self.browser.click('[data-upstream="fleet"] .more')
        wait_for("all rows", lambda: self.count('[data-upstream="fleet"] tbody tr') == 1000)
        seen = set()
        wait_for("polls", lambda: seen.add(self.text("#uptime")) or len(seen) >= 4, seconds=12)


class Token(Page):
    gateway_arguments = ("--token", "s3cret")

    def test_the_token_is_asked_for_kept_in_the_tab_and_never_in_the_address(self):
        self.browser.open(self.gateway.url)
        wait_for("the question", lambda: self.count("#token-dialog[open]") == 1)
        self.browser.type("#token", "wrong")
        self.browser.keys("\ue007")
        self.wait_for_text("#token-wrong", "That was not it")
        self.browser.type("#token", "s3cret")
        self.browser.keys("\ue007")
        self.wait_for_text("#ready", "ready")
        self.assertEqual(self.count("#token-dialog[open]"), 0)
        self.assertNotIn("s3cret", self.browser.run("return location.href + document.body.innerHTML"))
        self.browser.open(self.gateway.url)
        self.wait_for_text("#ready", "ready")
        self.assertEqual(self.count("#token-dialog[open]"), 0, "asked once a tab")

    def complaints(self):
        return [line for line in super().complaints() if "status of 401" not in line]


class Modules(Page):
    """The arithmetic, in the engine that runs it."""

    def module(self, name, script):
        self.show()
        return self.browser.run(f"return import('/assets/{name}.js').then(m => {{ {script} }})")

    def test_quantiles_are_those_of_the_requests_between_two_answers(self):
        self.assertEqual(self.module("rates", """
          const h = (counts, count) => ({ bounds_us: [1000, 2000, 5000], counts, count });
          return [
            m.quantile(h([50, 100, 100], 100), null, 0.75),
            m.quantile(h([100, 100, 110], 110), h([100, 100, 100], 100), 0.5),
            m.quantile(h([5, 5, 5], 5), h([5, 5, 5], 5), 0.5),
            m.quantile(h([0, 4, 4], 4), h([9, 9, 9], 9), 1),
            m.quantile(h([0, 0, 0], 7), null, 0.5),
          ];"""), [1500, 3500, None, 2000, 5000])

    def test_events_are_in_the_order_of_their_times_and_of_one_moment_as_they_came(self):
        self.assertEqual(self.module("events", """
          return m.inOrder([[5, 'a'], [9, 'b'], [5, 'c'], [1, 'd']].map(([at_ms, name]) => ({ at_ms, name }))).map(e => e.name).join('');"""), "dacb")

    def test_counters_that_began_anew_never_make_a_negative_rate(self):
        self.assertEqual(self.module("rates", """
          const answer = (instance, uptime_ms, attempts) => ({
            instance, uptime_ms, listeners: [], process: { cpu_ms: 0 },
            routes: [{ name: 'r', requests: attempts, errors: 0, inflight: 0, targets: [], latency: null }],
            providers: [], upstreams: [{ name: 'u', members: [{ id: 'm', state: 'healthy', attempts, failures: 0 }] }],
          });
          const t = new m.Tracker();
          const rates = [[answer('a', 1000, 100), 1], [answer('a', 3000, 300), 3], [answer('a', 4000, 50), 4], [answer('b', 500, 7), 5], [answer('b', 1500, 17), 6]]
            .map(([a, at]) => t.take(a, at).rate);
          return rates;"""), [None, 100, 50 / 3, None, 10])

    def test_numbers_are_written_as_tidegate_status_writes_them(self):
        self.assertEqual(self.module("format", """
          return [m.micros(0), m.micros(850), m.micros(12345), m.micros(1.2e6), m.rate(0.25), m.rate(12345), m.percent(0.025),
            m.percent(0.0001), m.percent(null), m.span(8040000), m.span(200000), m.count(49131), m.bytes(7 << 20)];"""),
            ["–", "850 µs", "12.3 ms", "1.20 s", "0.25", "12.3k", "2.5%", "<0.1%", "–", "2 h 14 min", "3 min 20 s", "49,131", "7.0 MiB"])

    def test_events_have_the_tone_of_their_kind(self):
        self.assertEqual(self.module("events", """
          return ['member_ejected', 'config_refused', 'certificate_not_renewed', 'config_loaded', 'certificate_renewed', 'member_added',
            'member_draining', 'draining', 'something_new'].map(m.tone);"""),
            ["bad", "bad", "bad", "good", "good", "main", "other", "warn", None])

    def test_the_scale_of_a_chart_is_round_and_never_below_the_data(self):
        self.assertEqual(self.module("chart", "return [0, 1, 1.2, 7, 99, 100, 101, 4200].map(m.ceiling)"),
                         [1, 1, 1.5, 8, 100, 100, 150, 5000])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    FAKE = os.path.abspath(sys.argv.pop(1))
    result = unittest.main(exit=False, verbosity=2).result
    bad = len(result.failures) + len(result.errors)
    print(f"# pass {result.testsRun - bad}\n# fail {bad}")
    sys.exit(0 if bad == 0 and result.testsRun else 1)
