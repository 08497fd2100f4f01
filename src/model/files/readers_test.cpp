// Readers of outside bytes: what they read, and that every lie in a header is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "model/files/checkpoint.h"
#include "model/files/config.h"
#include "model/files/gguf.h"
#include "model/files/safetensors.h"

namespace heddle::model {
namespace {

using testing::HasSubstr;

class Bytes {
 public:
  template <class T>
  Bytes& put(T value) {
    const auto* data = reinterpret_cast<const char*>(&value);
    text_.append(data, sizeof value);
    return *this;
  }
  Bytes& string(std::string_view text) {
    put(static_cast<uint64_t>(text.size()));
    text_ += text;
    return *this;
  }
  Bytes& raw(std::string_view text) {
    text_ += text;
    return *this;
  }
  Bytes& pad(size_t multiple) {
    text_.resize((text_.size() + multiple - 1) / multiple * multiple, '\0');
    return *this;
  }
  std::span<const std::byte> span() const { return std::as_bytes(std::span(text_)); }
  std::string& text() { return text_; }

 private:
  std::string text_;
};

// The format's numbers.
constexpr uint32_t kU32 = 4, kBool = 7, kString = 8, kArray = 9, kF32 = 6;

Bytes header(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
  Bytes bytes;
  bytes.raw("GGUF").put(version).put(tensors).put(keys);
  return bytes;
}

Bytes& tensor(Bytes& bytes, std::string_view name, std::initializer_list<uint64_t> dims,
              uint32_t type, uint64_t offset) {
  bytes.string(name).put(static_cast<uint32_t>(dims.size()));
  for (const uint64_t dim : dims) bytes.put(dim);
  return bytes.put(type).put(offset);
}

std::string gguf_error(const Bytes& bytes) {
  const auto file = GgufFile::parse(bytes.span(), "test.gguf");
  return file ? "accepted" : file.error().message;
}

TEST(Gguf, ReadsValuesAndTensors) {
  Bytes bytes = header(2, 5);
  bytes.string("general.architecture").put(kString).string("llama");
  bytes.string("llama.block_count").put(kU32).put(uint32_t{30});
  bytes.string("flag").put(kBool).put(uint8_t{1});
  bytes.string("words").put(kArray).put(kString).put(uint64_t{2}).string("a").string("bc");
  bytes.string("scores").put(kArray).put(kF32).put(uint64_t{2}).put(1.5f).put(-2.0f);
  tensor(bytes, "m", {32, 3}, 8, 0);
  tensor(bytes, "v", {2}, 0, 128);
  bytes.pad(32);
  const size_t data = bytes.text().size();
  bytes.text().resize(data + 136, 'x');
  const auto file = GgufFile::parse(bytes.span(), "test.gguf");
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->text_or("general.architecture", ""), "llama");
  EXPECT_EQ(file->integer_or("llama.block_count", 0), 30);
  EXPECT_TRUE(file->flag_or("flag", false));
  ASSERT_EQ(file->strings("words").size(), 2u);
  EXPECT_EQ(file->strings("words")[1], "bc");
  EXPECT_EQ(file->numbers("scores"), (std::vector<float>{1.5f, -2.0f}));
  const TensorInfo* m = file->tensors().find("m");
  ASSERT_NE(m, nullptr);
  EXPECT_EQ(m->shape, (std::vector<int64_t>{3, 32}));
  EXPECT_EQ(m->bytes, 3 * 34);
  EXPECT_EQ(m->data, bytes.span().data() + data);
}

TEST(Gguf, EveryCutIsRefused) {
  Bytes bytes = header(1, 1);
  bytes.string("words").put(kArray).put(kString).put(uint64_t{1}).string("a");
  tensor(bytes, "m", {32}, 8, 0).pad(32);
  bytes.text().resize(bytes.text().size() + 34, 'x');
  ASSERT_EQ(gguf_error(bytes), "accepted");
  const std::string whole = bytes.text();
  for (size_t length = 0; length < whole.size(); ++length) {
    bytes.text() = whole.substr(0, length);
    EXPECT_NE(gguf_error(bytes), "accepted") << length;
  }
}

TEST(Gguf, LiesAreRefused) {
  Bytes other;
  other.raw("GGML").put(uint32_t{3}).put(uint64_t{0}).put(uint64_t{0});
  EXPECT_THAT(gguf_error(other), HasSubstr("not a GGUF file"));
  EXPECT_THAT(gguf_error(header(0, 0, 2)), HasSubstr("version 2"));
  EXPECT_THAT(gguf_error(header(uint64_t{1} << 60, 0)), HasSubstr("number of tensors"));
  EXPECT_THAT(gguf_error(header(0, UINT64_MAX)), HasSubstr("number of keys"));

  Bytes huge = header(0, 1);
  huge.string("a").put(kArray).put(kU32).put(uint64_t{1} << 62).raw("xxxxxxxx");
  EXPECT_THAT(gguf_error(huge), HasSubstr("bytes are left"));

  Bytes nested = header(0, 1);
  nested.string("a").put(kArray);
  for (int i = 0; i < 10; ++i) nested.put(kArray).put(uint64_t{1});
  nested.put(kU32).put(uint64_t{0});
  EXPECT_THAT(gguf_error(nested), HasSubstr("nested"));

  Bytes twice = header(0, 2);
  twice.string("a").put(kU32).put(uint32_t{1}).string("a").put(kU32).put(uint32_t{1});
  EXPECT_THAT(gguf_error(twice), HasSubstr("twice"));

  Bytes type = header(0, 1);
  type.string("a").put(uint32_t{13}).raw("xxxxxxxx");
  EXPECT_THAT(gguf_error(type), HasSubstr("unknown value type"));

  Bytes alignment = header(0, 1);
  alignment.string("general.alignment").put(kU32).put(uint32_t{0});
  EXPECT_THAT(gguf_error(alignment), HasSubstr("alignment"));
}

std::string tensor_error(std::initializer_list<uint64_t> dims, uint32_t type, uint64_t offset) {
  Bytes bytes = header(1, 0);
  tensor(bytes, "m", dims, type, offset).pad(32);
  bytes.text().resize(bytes.text().size() + 64, 'x');
  return gguf_error(bytes);
}

TEST(Gguf, ImpossibleTensorsAreRefused) {
  EXPECT_EQ(tensor_error({16}, 0, 0), "accepted");
  EXPECT_THAT(tensor_error({16}, 0, 32), HasSubstr("needs 64 bytes"));
  EXPECT_THAT(tensor_error({16}, 0, 8), HasSubstr("alignment"));
  EXPECT_THAT(tensor_error({16}, 0, UINT64_MAX - 31), HasSubstr("needs"));
  EXPECT_THAT(tensor_error({0}, 0, 0), HasSubstr("size 0"));
  EXPECT_THAT(tensor_error({uint64_t{1} << 39, uint64_t{1} << 39}, 0, 0), HasSubstr("too large"));
  EXPECT_THAT(tensor_error({33}, 8, 0), HasSubstr("blocks of 32"));
  EXPECT_THAT(tensor_error({32}, 16, 0), HasSubstr("type number 16"));
  EXPECT_THAT(tensor_error({1, 1, 1, 1, 1}, 0, 0), HasSubstr("5 dimensions"));
  Bytes overlap = header(2, 0);
  tensor(overlap, "a", {16}, 0, 0);
  tensor(overlap, "b", {8}, 0, 32).pad(32);
  overlap.text().resize(overlap.text().size() + 64, 'x');
  EXPECT_THAT(gguf_error(overlap), HasSubstr("overlaps"));
  Bytes twice = header(2, 0);
  tensor(twice, "a", {8}, 0, 0);
  tensor(twice, "a", {8}, 0, 32).pad(32);
  twice.text().resize(twice.text().size() + 64, 'x');
  EXPECT_THAT(gguf_error(twice), HasSubstr("twice"));
}

Bytes safetensors(std::string_view json, size_t data) {
  Bytes bytes;
  bytes.string(json);
  bytes.text().resize(bytes.text().size() + data, 'x');
  return bytes;
}

std::string safetensors_error(const Bytes& bytes) {
  TensorTable table;
  const Status read = read_safetensors(bytes.span(), "test.safetensors", 0, table);
  return read ? "accepted" : read.error().message;
}

std::string entry(std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return fmt::format(R"("a":{{"dtype":"{}","shape":{},"data_offsets":{}}})", dtype, shape, offsets);
}

TEST(Safetensors, ReadsTensors) {
  const auto bytes = safetensors(
      "{" + entry("BF16", "[2,3]", "[0,12]") + R"(,"__metadata__":{"format":"pt"}})", 12);
  TensorTable table;
  const Status read = read_safetensors(bytes.span(), "test", 0, table);
  ASSERT_TRUE(read) << read.error().message;
  ASSERT_EQ(table.all().size(), 1u);
  EXPECT_EQ(table.find("a")->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(table.find("a")->dtype, DType::bf16);
}

TEST(Safetensors, LiesAreRefused) {
  const auto error = [](const std::string& json, size_t data) {
    return safetensors_error(safetensors(json, data));
  };
  EXPECT_EQ(error("{" + entry("F32", "[2]", "[0,8]") + "}", 8), "accepted");
  EXPECT_THAT(error("{" + entry("F32", "[2]", "[0,8]") + "}", 7), HasSubstr("not inside"));
  EXPECT_THAT(error("{" + entry("F32", "[2]", "[0,8]") + "}", 9), HasSubstr("follow the last"));
  EXPECT_THAT(error("{" + entry("F32", "[3]", "[0,8]") + "}", 8), HasSubstr("takes 12 bytes"));
  EXPECT_THAT(error("{" + entry("F32", "[2]", "[8,0]") + "}", 8), HasSubstr("not inside"));
  EXPECT_THAT(error("{" + entry("F32", "[2]", "[-8,0]") + "}", 8), HasSubstr("not inside"));
  EXPECT_THAT(error("{" + entry("Q9", "[2]", "[0,8]") + "}", 8), HasSubstr("type Q9"));
  EXPECT_THAT(error("{" + entry("F32", "[1099511627776,1099511627776]", "[0,8]") + "}", 8),
              HasSubstr("too large"));
  EXPECT_THAT(error("{" + entry("F32", R"(["x"])", "[0,8]") + "}", 8), HasSubstr("sensible"));
  EXPECT_THAT(
      error("{" + entry("F32", "[2]", "[0,8]") + "," + entry("F32", "[2]", "[0,8]") + "}", 8),
      HasSubstr("twice"));
  EXPECT_THAT(error("{" + entry("F32", "[2]", "[0,8]") +
                        R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                    12),
              HasSubstr("overlap"));
  EXPECT_THAT(error("{" + entry("F32", "[2]", "[4,12]") + "}", 12), HasSubstr("hole"));
  EXPECT_THAT(error("{\"a\":", 8), HasSubstr("not valid JSON"));
  EXPECT_THAT(error("[1]", 8), HasSubstr("not JSON"));
  EXPECT_THAT(error(R"({"a":3})", 8), HasSubstr("expected dtype"));
  Bytes length;
  length.put(UINT64_MAX).raw("{}");
  EXPECT_THAT(safetensors_error(length), HasSubstr("header of"));
  EXPECT_THAT(safetensors_error(Bytes().raw("abc")), HasSubstr("too few"));
}

class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "heddle-XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string write(const std::string& name, std::string_view text) const {
    const auto path = path_ / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
    return path.string();
  }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

TEST(Safetensors, WriterAndShards) {
  const Folder folder;
  const float values[] = {1, 2, 3, 4, 5, 6};
  for (const char* name : {"one", "two"}) {
    auto writer = SafetensorsWriter::create(folder.path() + "/" + name + ".safetensors",
                                            {{name, DType::f32, {2, 3}}});
    ASSERT_TRUE(writer);
    EXPECT_FALSE(SafetensorsWriter(std::move(*SafetensorsWriter::create(folder.path() + "/short",
                                                                        {{"x", DType::f32, {1}}})))
                     .finish());
    ASSERT_TRUE(writer->append(std::as_bytes(std::span(values))));
    ASSERT_TRUE(writer->finish());
  }
  folder.write("model.safetensors.index.json",
               R"({"weight_map":{"one":"one.safetensors","two":"two.safetensors"}})");
  const auto opened = open_safetensors(folder.path());
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ(opened->files.size(), 2u);
  ASSERT_TRUE(opened->tensors.has("two"));
  EXPECT_EQ(std::memcmp(opened->tensors.find("two")->data, values, sizeof values), 0);
  folder.write("model.safetensors.index.json", R"({"weight_map":{"one":"../one.safetensors"}})");
  EXPECT_THAT(open_safetensors(folder.path()).error().message, HasSubstr("plain file name"));
  folder.write("model.safetensors.index.json", R"({"weight_map":{"three":"one.safetensors"}})");
  EXPECT_THAT(open_safetensors(folder.path()).error().message, HasSubstr("three"));
}

TEST(Config, FlattensAndPrefersTheTextModel) {
  const auto config = Config::from_json(
      R"({"architectures":["X"],"hidden_size":1,"text_config":{"hidden_size":64,"rope":{"theta":1e6},
          "list":[1,2],"none":null}})",
      "config.json");
  ASSERT_TRUE(config);
  EXPECT_EQ(config->size("hidden_size").value(), 64);
  EXPECT_EQ(config->number("rope.theta").value(), 1e6);
  EXPECT_EQ(config->integers("list").value(), (std::vector<int64_t>{1, 2}));
  EXPECT_FALSE(config->has("none"));
  EXPECT_EQ(config->texts("architectures").value(), std::vector<std::string>{"X"});
  EXPECT_THAT(config->size("missing").error().message, HasSubstr("missing is missing"));
  EXPECT_FALSE(Config::from_json("[]", "config.json"));
  EXPECT_FALSE(Config::from_json(std::string(100000, '['), "config.json"));
}

TEST(Checkpoint, FoundByNameInTheCache) {
  const Folder cache;
  const std::string base = "models--org--name/";
  cache.write(base + "refs/main", "abc123\n");
  cache.write(base + "snapshots/abc123/config.json", "{}");
  const ModelPlaces places{cache.path()};
  EXPECT_EQ(find_model("org/name", places).value(), cache.path() + "/" + base + "snapshots/abc123");
  EXPECT_EQ(find_model("org/name@abc123", places).value(),
            cache.path() + "/" + base + "snapshots/abc123");
  EXPECT_THAT(find_model("org/other", places).error().message, HasSubstr("neither a path"));
  EXPECT_FALSE(find_model("org/name@../x", places));
  EXPECT_FALSE(find_model("org/..", places));
  EXPECT_FALSE(find_model("org/name", {}));
}

TEST(Checkpoint, DamagedConfigurationsAreRefused) {
  const std::string golden = std::string(HEDDLE_GOLDEN_DIR) + "/qwen3_5/";
  const auto text = read_text_file(golden + "config.json");
  ASSERT_TRUE(text);
  const Folder folder;
  std::filesystem::copy(golden + "model.safetensors", folder.path() + "/model.safetensors");
  const auto error = [&](std::string_view from, std::string_view to) {
    std::string changed = *text;
    const size_t at = changed.find(from);
    EXPECT_NE(at, changed.npos) << from;
    changed.replace(at, from.size(), to);
    folder.write("config.json", changed);
    const auto opened = Checkpoint::open(folder.path());
    return opened ? std::string("accepted") : opened.error().message;
  };
  EXPECT_EQ(error("\"hidden_size\"", "\"hidden_size\""), "accepted");
  EXPECT_THAT(error("Qwen3_5ForCausalLM", "Unheard"), HasSubstr("unknown architecture Unheard"));
  EXPECT_THAT(error("\"hidden_size\": 64", "\"hidden_size\": -1"), HasSubstr("hidden_size is -1"));
  EXPECT_THAT(error("\"hidden_size\": 64", "\"hidden_size\": \"x\""), HasSubstr("not an integer"));
  EXPECT_THAT(error("\"num_hidden_layers\": 5", "\"num_hidden_layers\": 2000000000"),
              HasSubstr("at most"));
  EXPECT_THAT(error("\"num_hidden_layers\": 5", "\"num_hidden_layers\": 4"),
              HasSubstr("layer_types has 5"));
  EXPECT_THAT(error("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"),
              HasSubstr("no multiple"));
  EXPECT_THAT(error("\"partial_rotary_factor\": 0.5", "\"partial_rotary_factor\": 7"),
              HasSubstr("partial_rotary_factor"));
}

}  // namespace
}  // namespace heddle::model
