#include <fmt/format.h>

#include "app/command_line.hpp"
#include "app/commands.hpp"
#include "app/device.hpp"
#include "app/evaluation.hpp"
#include "hugging_face/adapter.hpp"
#include "hugging_face/pretrained.hpp"
#include "train/checkpoint.hpp"

int align::evaluate_command(int argc, char** argv) {
  std::filesystem::path folder, adapter, output;
  TextOptions text;
  EvaluationOptions options;
  std::string device_name = "cpu";
  bool bf16 = false;
  CLI::App app("Evaluates a Hugging Face checkpoint and prints the numbers as JSON.", "ogpsa_align evaluate");
  app.set_config("--config", "", "TOML file with any of these options");
  add_model_options(app, "Model", folder, adapter);
  add_device_option(app, "Model", device_name);
  app.add_option("--output", output, "File for the numbers, beside the terminal");
  app.add_flag("--bf16", bf16, "Matrix products in bfloat16");
  add_text_options(app, text);
  add_evaluation_options(app, options);
  CLI11_PARSE(app, argc, argv);
  const auto log = [](const std::string& line) { fmt::print(stderr, "{}\n", line); };
  const auto device = device_of(device_name);
  const auto found = find_model(folder, adapter);
  const DatasetLoader loader(found.base, text, log);
  const Evaluation evaluation(loader, options);
  if (evaluation.empty())
    throw ogpsa::InvalidArgument("there is nothing to evaluate on; give --eval_loss or another file");
  auto model = load_pretrained(found.base);
  if (!found.adapter.empty()) load_adapter(model, found.adapter);
  model->to(device);
  model->computation.bf16 = bf16;
  const auto result = evaluation(model, [&](const auto& file) { log("evaluating " + file); });
  fmt::print("{}\n", result.dump(2));
  if (!output.empty()) write_file(output, result.dump(2) + "\n");
  return 0;
}
