#include "text/template/chat_template.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

#include "base/mmap_file.h"

// Expected texts are Jinja2's; test/e2e/chat_template_test.py compares a few hundred more with it
// directly.
namespace heddle::text {
namespace {

Value json(std::string_view text) {
  auto value = parse_json(text);
  EXPECT_TRUE(value) << (value ? "" : value.error().message);
  return value ? *value : Value();
}

// The text, or the error after "error: ".
std::string render(const std::string& source, const char* extra = "{}",
                   RenderOptions options = {}) {
  auto parsed = ChatTemplate::parse(source, {.bos = "<s>", .eos = "</s>"});
  if (!parsed) return "error: " + parsed.error().message;
  options.extra = json(extra);
  options.limits.steps = 2'000'000;
  auto text = parsed->render(Value::list({}), nullptr, options);
  return text ? *text : "error: " + text.error().message;
}

struct Case {
  const char* source;
  const char* expected;
};

TEST(ChatTemplate, StatementsPrintWhatJinjaPrints) {
  const Case cases[] = {
      {"{{ 'a' }}{% if false %}b{% elif 1 %}c{% else %}d{% endif %}", "ac"},
      {"{% for x in [1,2,3] if x != 2 %}{{ x }}{{ ',' if not loop.last }}{% endfor %}", "1,3"},
      {"{% for x in [] %}x{% else %}none{% endfor %}", "none"},
      {"{% for k, v in {'a': 1}.items() %}{{ k }}={{ v }}{% endfor %}", "a=1"},
      {"{% set x = 1 %}{% for i in [2] %}{% set x = i %}{% endfor %}{{ x }}", "1"},
      {"{% set ns = namespace(x=1) %}{% for i in [2] %}{% set ns.x = i %}{% endfor %}{{ ns.x }}",
       "2"},
      {"{% set x %} b {% endset %}[{{ x | trim }}]", "[b]"},
      {"{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(b=3, a=4) }}", "1243"},
      {"{% macro m() %}<{{ caller(5) }}>{% endmacro %}{% call(x) m() %}{{ x }}{% endcall %}",
       "<5>"},
      {"{% filter upper %}a{% endfilter %}{% raw %}{{ x }}{% endraw %}{# no #}", "A{{ x }}"},
      {"{% for x in [1,2,3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "13"},
      {"{% for x in [1,2,3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", "1"},
      {"{% generation %}a{% endgeneration %}{% with y = 2 %}{{ y }}{% endwith %}{{ y }}", "a2"},
      {"  {% if true %}\n  a\n  {% endif %}\nb\n", "  a\nb"},
      {"a  {{- 1 -}}  b {%+ if true %} c{% endif %}", "a1b  c"},
      {"{% for x in [[1,[2]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}", "12"},
  };
  for (const Case& one : cases) EXPECT_EQ(render(one.source), one.expected) << one.source;
}

TEST(ChatTemplate, ExpressionsFollowPython) {
  const Case cases[] = {
      {"{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 3 ** 2 }}", "3 -4 2 3.5 64"},
      {"{{ 1e16 }} {{ 0.1 + 0.2 }} {{ 1.0 }}", "1e+16 0.30000000000000004 1.0"},
      {"{{ none }} {{ true }} {{ missing }} {{ [1, 'a', (2,), none] }}",
       "None True  [1, 'a', (2,), None]"},
      {"{{ 'héllo'[1:3] }} {{ 'abc'[::-1] }} {{ [1,2,3][-1] }} {{ 'é'|length }}", "él cba 3 1"},
      {"{{ 1 < 2 < 3 }} {{ 'b' in {'b': 1} }} {{ 4 not in [1] }} {{ 1 == 1.0 }}",
       "True True True True"},
      {"{{ ('<b>' | safe) + '<' }}", "<b>&lt;"},
      {"{{ 'a,b'.split(',') | last }} {{ ' x '.strip() }} {{ '{}{{}}'.format(5) }}", "b x 5{}"},
      {"{{ {'b': 1, 'a': 'é'} | tojson }} {{ [1] | tojson(indent=1) }}",
       "{\"b\": 1, \"a\": \"é\"} [\n 1\n]"},
      {"{{ [{'n': 2}, {'n': 1}] | sort(attribute='n') | map(attribute='n') | join('-') }}", "1-2"},
      {"{{ missing | default('d') }} {{ '42' | int + 1 }} {{ 2.5 | int }}", "d 43 2"},
      {"{{ missing is defined }} {{ {} is mapping }} {{ 'a' is string }} {{ 3 is integer }}",
       "False True True True"},
  };
  for (const Case& one : cases) EXPECT_EQ(render(one.source), one.expected) << one.source;
}

TEST(ChatTemplate, ErrorsSayTheLine) {
  EXPECT_EQ(render("a\n{{ raise_exception('no ' ~ 1) }}"), "error: chat template, line 2: no 1");
  EXPECT_EQ(render("\n\n{{ missing.x }}"), "error: chat template, line 3: 'missing' is undefined");
  EXPECT_EQ(render("\n{{ 1 | nope }}"), "error: chat template, line 2: No filter named 'nope'.");
  // What Jinja and Python have and no chat template uses is named as well.
  EXPECT_EQ(render("{{ [1] | batch(2) }}"),
            "error: chat template, line 1: No filter named 'batch'.");
  EXPECT_EQ(render("{{ 'a'.zfill(3) }}"),
            "error: chat template, line 1: 'str object' has no attribute 'zfill'");
  for (const char* bad :
       {"{% if %}{% endif %}", "{{ 1 + }}", "{% endif %}", "{% for x in l %}", "{{ 'a }}",
        "{% break %}", "{# open", "{% include 'x' %}", "{% do x %}", "{{ [1].append(2) }}",
        "{{ {}.update({}) }}", "{{ '%d' % 1 }}", "{{ '{:>3}'.format(5) }}", "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}", "{{ missing | tojson }}"}) {
    EXPECT_EQ(render(bad).substr(0, 6), "error:") << bad;
  }
}

TEST(ChatTemplate, HostileTemplatesEndWithAnError) {
  const std::string deep_parens =
      "{{ " + std::string(100000, '(') + "1" + std::string(100000, ')') + " }}";
  std::string deep_blocks, chain = "{{ a", wide = "{{ 'a'";
  for (int i = 0; i < 20000; ++i) deep_blocks += "{% if true %}";
  for (int i = 0; i < 20000; ++i) chain += ".a";
  for (int i = 0; i < 20000; ++i) wide += " + 'a'";
  const std::string hostile[] = {
      "{{ 'a' * 10**12 }}",
      "{{ [1] * 10**12 }}",
      "{{ range(10**12) | list }}",
      "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s "
      "%}{% endfor %}",
      "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% "
      "endfor %}{{ ns.s }}",
      "{% set ns = namespace(s=[1]) %}{% for i in range(9999) %}{% set ns.s = [ns.s] %}{% endfor "
      "%}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{% set l = range(99999) | list %}{% for b in l %}{{ -1 in l }}{% endfor %}",
      "{{ 'x' | indent(10**12, true) }}",
      "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
      "{{ 9223372036854775807 + 1 }}",
      "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}",
      deep_parens,
      deep_blocks,
      chain + " }}",
      wide + " }}",
  };
  for (const std::string& source : hostile) {
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(render(source).substr(0, 6), "error:") << source.substr(0, 80);
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
    EXPECT_LT(spent.count(), 30) << source.substr(0, 80);
  }
}

TEST(ChatTemplate, ValuesThatHoldThemselvesAreFreed) {
  EXPECT_EQ(render("{% set n = namespace() %}{% set n.me = n %}{% set n.l = [n] %}"
                   "{% macro f() %}{{ n.me.me.x }}{% endmacro %}{% set n.f = f %}{{ f() }}ok"),
            "ok");
}

TEST(ChatTemplate, MessagesToolsAndTokensReachTheTemplate) {
  auto parsed = ChatTemplate::parse(
      "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }};{{ m.thinking }}{% "
      "endfor %}"
      "{{ tools | length if tools else tools }}{{ add_generation_prompt }}{{ flag }}{{ pad_token "
      "is defined }}"
      "{{ strftime_now('%Y-%m-%d') }}",
      {.bos = "<s>"});
  ASSERT_TRUE(parsed);
  RenderOptions options;
  options.extra = json(R"({"flag": 3})");
  options.now.emplace();
  options.now->tm_year = 124;
  options.now->tm_mon = 6;
  options.now->tm_mday = 26;
  const Value messages = json(R"([{"role": "user", "content": "hé", "reasoning_content": "r"}])");
  EXPECT_EQ(parsed->render(messages, nullptr, options).value(),
            "<s>user:hé;rNoneTrue3False2024-07-26");
  options.add_generation_prompt = false;
  EXPECT_EQ(parsed->render(messages, json("[{}]"), options).value(),
            "<s>user:hé;r1False3False2024-07-26");
  EXPECT_FALSE(parsed->render(Value("text")));
}

TEST(ChatTemplate, EndsOfMessagesAreKnownFromOneRendering) {
  struct Ends {
    const char* source;
    std::vector<int64_t> ends;
  };
  const Ends cases[] = {
      {"{% for m in messages %}[{{ m.content }}]{% endfor %}>", {4, 8, 12}},
      // The first message outside the loop, the rest through a slice.
      {"({{ messages[0].content }}){% for m in messages[1:] %}{{ m.content }},{% endfor %}>",
       {4, 7, 10}},
      // A loop that only looks, before and after the one that writes.
      {"{% set n = namespace(x=0) %}{% for m in messages[::-1] %}{% set n.x = n.x + 1 %}{% endfor "
       "%}"
       "{% for m in messages %}{% if not loop.first %};{% endif %}{{ m.content }}{% endfor %}"
       "{% for m in messages %}{% set n.x = 0 %}{% endfor %}>",
       {2, 5, 8}},
      {"{% macro w(m) %}<{{ m.content }}>{% endmacro %}"
       "{% for m in messages %}{{ w(m) }}{% if loop.index0 == 1 %}{% break %}{% endif %}{% endfor "
       "%}",
       {4, 8, -1}},
      // Put together elsewhere, or written in another order: nothing is known.
      {"{% set t %}{% for m in messages %}{{ m.content }}{% endfor %}{% endset %}{{ t }}",
       {-1, -1, -1}},
      {"{% for m in messages[::-1] %}{{ m.content }}{% endfor %}", {-1, -1, -1}},
  };
  const Value messages = json(R"([{"content": "aa"}, {"content": "bb"}, {"content": "cc"}])");
  for (const Ends& c : cases) {
    std::vector<int64_t> ends;
    const auto parsed = ChatTemplate::parse(c.source);
    ASSERT_TRUE(parsed) << parsed.error().message;
    ASSERT_TRUE(parsed->render(messages, nullptr, {}, &ends)) << c.source;
    EXPECT_EQ(ends, c.ends) << c.source;
    EXPECT_EQ(parsed->renderings(), 1);
  }
}

// Where the text of a shorter conversation is the beginning of a longer one's, it ends at the end
// of its last message.
TEST(ChatTemplate, EndsAreThoseOfShorterConversations) {
  const std::string folder = HEDDLE_SOURCE_DIR "/test/e2e/";
  const auto text = read_text_file(folder + "chat_template_conversations.json");
  ASSERT_TRUE(text.has_value());
  const Value conversations = json(*text);
  int64_t found = 0;
  for (const char* style : {"chatml", "llama3", "gemma", "qwen3"}) {
    const auto source = read_text_file(folder + "chat_template_styles/" + style + ".jinja");
    ASSERT_TRUE(source.has_value());
    const auto parsed = ChatTemplate::parse(*source, {.bos = "<s>", .eos = "</s>"});
    ASSERT_TRUE(parsed) << parsed.error().message;
    for (const Value& conversation : conversations.items()) {
      const Value* messages = conversation.find("messages");
      if (!messages->is_list()) continue;
      const Value* tools = conversation.find("tools");
      RenderOptions options;
      if (const Value* extra = conversation.find("extra")) options.extra = *extra;
      options.now.emplace();
      std::vector<int64_t> ends;
      const auto whole = parsed->render(*messages, tools ? *tools : Value(nullptr), options, &ends);
      if (!whole) continue;
      options.add_generation_prompt = false;
      const auto& items = messages->items();
      ASSERT_EQ(ends.size(), items.size());
      for (size_t count = 1; count <= items.size(); ++count) {
        const Value head =
            Value::list({items.begin(), items.begin() + static_cast<int64_t>(count)});
        const auto shorter = parsed->render(head, tools ? *tools : Value(nullptr), options);
        if (!shorter || shorter->empty() || !whole->starts_with(*shorter)) continue;
        EXPECT_EQ(ends[count - 1], std::ssize(*shorter))
            << style << " " << conversation.find("name")->as_string() << " " << count;
        ++found;
      }
    }
  }
  EXPECT_GT(found, 100);
}

TEST(ChatTemplate, ThreadsRenderOneTemplateAtOnce) {
  auto parsed = ChatTemplate::parse("{% for m in messages %}{{ m.content | upper }}{% endfor %}");
  ASSERT_TRUE(parsed);
  const Value messages = json(R"([{"content": "a"}, {"content": "b"}])");
  std::vector<std::thread> threads;
  std::vector<int> right(4, 0);
  for (size_t i = 0; i < right.size(); ++i) {
    threads.emplace_back([&, i] {
      for (int k = 0; k < 50; ++k) right[i] += parsed->render(messages).value_or("") == "AB";
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(right, std::vector<int>(4, 50));
}

TEST(ChatTemplate, CapabilitiesAreFoundByProbing) {
  const auto plain =
      ChatTemplate::parse(
          "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
          "{{ m.content }}{% endfor %}")
          ->capabilities();
  EXPECT_FALSE(plain.system_role || plain.tools || plain.tool_calls || plain.reasoning);
  const auto full =
      ChatTemplate::parse(
          "{{ tools | tojson }}{% for m in messages %}{{ m.reasoning_content }}"
          "{% for c in m.tool_calls or [] %}{% for k, v in c.function.arguments | items %}{{ v "
          "}}{% endfor %}{% endfor %}"
          "{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}"
          "{% endfor %}")
          ->capabilities();
  EXPECT_TRUE(full.system_role && full.tools && full.tool_calls && full.tool_results);
  EXPECT_TRUE(full.reasoning && full.object_arguments && full.list_content);
}

TEST(Json, ReadsAndWritesAsPythonDoes) {
  for (const char* same : {R"({"b": 1, "a": [1.0, -0.5, 1e+100, null, true, "é\"\\\n"]})",
                           "12345678901234567890", "[]", "{}", R"("\u0001")", "-1e-07"}) {
    EXPECT_EQ(to_json(json(same)).value(), same);
  }
  EXPECT_EQ(to_json(json("\"\\ud83d\\ude42\""), {.ensure_ascii = true}).value(),
            "\"\\ud83d\\ude42\"");
  EXPECT_EQ(
      to_json(json(R"({"b": 1, "a": [2]})"), {.pretty = true, .indent = " ", .sort_keys = true})
          .value(),
      "{\n \"a\": [\n  2\n ],\n \"b\": 1\n}");
  EXPECT_EQ(json(R"({"a": 1, "a": 2})").find("a")->as_int(), 2);
  for (const char* bad : {"", "{", "[1,]", "01", "1.", "\"\\ud800\"", "\"\xff\"", "nul", "1 2",
                          "{1: 2}", "\"\n\"", "[1 2]", "\"\\x\"", "-", "1e999"}) {
    EXPECT_FALSE(parse_json(bad)) << bad;
  }
  EXPECT_FALSE(parse_json(std::string(100000, '[')));
  EXPECT_FALSE(parse_json(std::string_view("1\0", 2)));
  EXPECT_FALSE(parse_json("\xef\xbb\xbf{}"));
  EXPECT_FALSE(parse_json(std::string(5000, '1')));
  EXPECT_TRUE(json("18446744073709551615").is_big_integer());
  EXPECT_EQ(json("-9223372036854775808").as_int(), INT64_MIN);
  EXPECT_EQ(to_json(json("-" + std::string(40, '7'))).value(), "-" + std::string(40, '7'));
  EXPECT_EQ(to_json(json(R"({"a": 1, "b": 2, "a": 3})")).value(), R"({"a": 3, "b": 2})");
  // What is wrong and where, not the text itself.
  const std::string error = parse_json("[\"" + std::string(1000, 'x') + "\", nul]").error().message;
  EXPECT_TRUE(error.starts_with("JSON: byte 10")) << error;
  EXPECT_LT(error.size(), 200u);
  EXPECT_FALSE(to_json(Value()));
}

}  // namespace
}  // namespace heddle::text
