#include "train/protection.hpp"

#include <limits>
#include <ogpsa/ogpsa.hpp>
#include <ogpsa/torch.hpp>
#include <sstream>
#include <variant>

#include "model/lora.hpp"

#ifdef OGPSA_ALIGN_CUDA
#include <ogpsa/torch/cuda.hpp>
#endif

namespace align {

/// A projector for where the model is.
struct Protection::Projector {
#ifdef OGPSA_ALIGN_CUDA
  using Any = std::variant<ogpsa::torch::GradientProjector, ogpsa::torch::CudaGradientProjector>;
#else
  using Any = std::variant<ogpsa::torch::GradientProjector>;
#endif

  Projector(CausalLm& model, ogpsa::torch::Options options) : any(make(model, std::move(options))) {}
  /// Calls f with it.
  template <class F>
  decltype(auto) with(F&& f) {
    return std::visit(std::forward<F>(f), any);
  }

  const ogpsa::Report& report() {
    return with([](auto& p) -> const ogpsa::Report& { return p.report(); });
  }

  Any any;

 private:
  static Any make([[maybe_unused]] CausalLm& model, ogpsa::torch::Options options) {
#ifdef OGPSA_ALIGN_CUDA
    if (model->device().is_cuda()) {
      return Any(std::in_place_type<ogpsa::torch::CudaGradientProjector>, *model, std::move(options));
    }
#endif
    return Any(std::in_place_type<ogpsa::torch::GradientProjector>, *model, std::move(options));
  }
};

namespace {

constexpr const char* kStateFile = "projector.safetensors";

struct MethodName {
  Method method;
  const char* name;
};
constexpr MethodName kMethods[] = {{Method::plain, "plain"},
                                   {Method::ogpsa, "ogpsa"},
                                   {Method::ogpsa_step, "ogpsa-step"},
                                   {Method::structured, "structured"},
                                   {Method::structured_gradient, "structured-gradient"}};

/// The value that goes by a name. \throws ogpsa::InvalidArgument that lists the names
template <class T>
T named(const char* option, const std::string& name, std::initializer_list<std::pair<const char*, T>> values) {
  std::string known;
  for (const auto& [key, value] : values) {
    if (name == key) return value;
    known += (known.empty() ? "" : ", ") + std::string(key);
  }
  throw ogpsa::InvalidArgument(std::string(option) + " '" + name + "' is unknown; use one of " + known);
}

ogpsa::torch::Options projector_options(const ProtectionOptions& options) {
  ogpsa::torch::Options result;
  result.refresh_every = options.refresh_every > 0 ? options.refresh_every : std::numeric_limits<std::int64_t>::max();
  result.policy = options.streaming ? ogpsa::RefreshPolicy::streaming : ogpsa::RefreshPolicy::periodic;
  result.forgetting = options.forgetting;
  result.include = options.include;
  result.projection.alpha = options.alpha;
  result.projection.scale = options.scale;
  using Mode = ogpsa::ProjectionMode;
  result.projection.mode = named<Mode>("projection_mode", options.mode,
                                       {{"orthogonal", Mode::orthogonal},
                                        {"conflicting", Mode::conflicting},
                                        {"one-sided", Mode::one_sided},
                                        {"inside", Mode::inside}});
  using Storage = ogpsa::BasisStorage;
  result.basis_storage = named<Storage>("basis_storage", options.basis_storage,
                                        {{"float32", Storage::full},
                                         {"page_locked", Storage::page_locked},
                                         {"bfloat16", Storage::bfloat16},
                                         {"int8", Storage::int8}});
  if (options.streaming) result.reference.rank.max_rank = 8;  // of flat blocks; a stream needs a limit
  if (!is_structured(options.method)) return result;
  result.structured = kMatrices;  // embeddings and norms stay flat
  using Form = ogpsa::Form;
  result.form =
      named<Form>("form", options.form, {{"input", Form::input}, {"output", Form::output}, {"both", Form::both}});
  result.reference.structured.rank.max_share = options.max_share;
  result.reference.structured.damping = options.damping;
  return result;
}

/// Has a function see the inputs of the adapters, for as long as it lives.
class Observed {
 public:
  Observed(InputObserver& observer, decltype(InputObserver::see) see) : observer_(observer) {
    observer_.see = std::move(see);
  }
  ~Observed() { observer_ = {}; }
  Observed(const Observed&) = delete;
  Observed& operator=(const Observed&) = delete;

 private:
  InputObserver& observer_;
};

/// Where B is zero, A is free: it leaves the subspace. All steps of A do as well, so that B A, too, stays out of it.
template <class P>
void take_out_untrained_adapters(P& projector, CausalLm& model) {
  std::vector<std::pair<torch::Tensor, torch::Tensor>> kept;  // A, and its gradient
  for (const auto* adapter : adapters(model)) {
    auto a = adapter->lora_a();
    kept.emplace_back(a, a.grad());
    a.mutable_grad() =
        adapter->lora_b().count_nonzero().item<std::int64_t>() == 0 ? a.detach().clone() : torch::Tensor();
  }
  projector.project_gradients();
  const torch::NoGradGuard no_grad;
  for (auto& [a, gradient] : kept) {
    if (a.grad().defined()) a.copy_(a.grad());
    a.mutable_grad() = gradient;
  }
}

/// The mean loss over the reference rows, in micro-batches.
ogpsa::torch::Objective objective(const Reference& reference, CausalLm model, std::int64_t size) {
  const auto rows = reference.loss->rows();
  return {reference.name, (rows + size - 1) / size, [=, loss = reference.loss](ogpsa::Index i) mutable {
            std::vector<std::int64_t> part;
            double weight = 0;
            for (auto row = i * size; row < std::min(rows, (i + 1) * size); ++row) {
              part.push_back(row);
              weight += loss->weight(row);
            }
            return ogpsa::torch::ReferenceLoss{loss->sum(model, part) / weight, weight};
          }};
}

}  // namespace

bool is_structured(Method method) { return method == Method::structured || method == Method::structured_gradient; }

const char* name(Method method) {
  for (const auto& m : kMethods) {
    if (m.method == method) return m.name;
  }
  return "?";
}

Method method_of(const std::string& name) {
  std::string known;
  for (const auto& m : kMethods) {
    if (name == m.name) return m.method;
    known += std::string(known.empty() ? "" : ", ") + m.name;
  }
  throw ogpsa::InvalidArgument("method '" + name + "' is unknown; use one of " + known);
}

Protection::Protection(CausalLm model, std::vector<Reference> references, ProtectionOptions options)
    : model_(std::move(model)), references_(std::move(references)), options_(std::move(options)) {
  if (options_.method == Method::plain) return;
  auto chosen = projector_options(options_);
  // With LoRA the weights are frozen, and their change is B A: whatever B is, it gives nothing to inputs that A is
  // orthogonal to. So it is A that is protected, from the inputs that its layer sees: no gradient is needed for them.
  if (protects_adapters()) chosen.reference.structured.source = ogpsa::MomentSource::inputs;
  projector_ = std::make_unique<Projector>(model_, std::move(chosen));
}
Protection::~Protection() = default;
Protection::Protection(Protection&&) noexcept = default;

void Protection::prepare(std::int64_t step) {
  if (projector_ == nullptr || !projector_->with([&](auto& p) { return p.refresh_due(step); })) return;
  std::vector<ogpsa::torch::Objective> objectives;
  for (const auto& reference : references_) objectives.push_back(objective(reference, model_, options_.batch_size));
  if (!protects_adapters()) return projector_->with([&](auto& p) { p.refresh(objectives); });
  projector_->with([&](auto& p) {
    const Observed here(model_->observer, [&p](const auto& name, const auto& x) { p.observe_inputs(name, x); });
    p.refresh(objectives);
    take_out_untrained_adapters(p, model_);
  });
}

void Protection::project_gradients() {
  if (projector_ != nullptr && !projects_step()) projector_->with([](auto& p) { p.project_gradients(); });
}

void Protection::step(torch::optim::Optimizer& optimizer) {
  if (projects_step()) {
    projector_->with([&](auto& p) { p.step(optimizer); });
  } else {
    optimizer.step();
  }
}

bool Protection::protects_adapters() { return is_structured(options_.method) && !adapters(model_).empty(); }

bool Protection::projects_step() const {
  return options_.method == Method::ogpsa_step || options_.method == Method::structured;
}

std::optional<ProtectionRecord> Protection::record() const {
  if (projector_ == nullptr) return std::nullopt;
  const ogpsa::Report& report = projector_->report();
  const auto total = report.total();
  return ProtectionRecord{total.fraction_removed(), total.angle(), report.basis_age};
}

std::string Protection::blocks_line() const {
  std::ostringstream line;
  if (projector_ != nullptr) projector_->report().write_json_line(line);
  return line.str();
}

void Protection::save(const std::filesystem::path& folder) const {
  if (projector_ == nullptr) return;
  projector_->with([&](auto& p) {
    if (p.core().ready()) p.save(folder / kStateFile);
  });
}

void Protection::load(const std::filesystem::path& folder) {
  if (projector_ != nullptr) projector_->with([&](auto& p) { p.load(folder / kStateFile); });
}

}  // namespace align
