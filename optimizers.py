"""The optimizer of a training: its learning rate over the run, Muon, and slower steps of pretrained layers."""

from recipes import SCHEDULES
from util.backend import Later, keras
from util.cli import InputError
from util.files import first_line
from util.hardware import tensorflow_on_processor

ops, kernels = keras.ops, Later("kernels")


class OverTheRun(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises for the share `warmup` of `steps`, then follows a row of SCHEDULES to their end."""

    def __init__(self, rate, shape, warmup, steps):
        super().__init__()
        self.rate, self.shape, self.warmup, self.steps = rate, shape, warmup, steps

    def __call__(self, step):
        share = ops.minimum(ops.cast(step, "float32") / self.steps, 1)
        falling = self.shape((share - self.warmup) / (1 - self.warmup))
        return self.rate * (ops.where(share < self.warmup, share / self.warmup, falling) if self.warmup else falling)


def new_optimizer(settings, steps=1, taken=()):
    """The optimizer of the settings for a run of `steps`. Raises InputError where Keras refuses a CONFIG's.

    `taken` are the variables of pretrained layers, which ENCODER=tuned may train more slowly than the others.
    """
    if isinstance(settings.optimizer, str):
        name, config = settings.optimizer, {}
    else:
        name, config = settings.optimizer.class_name, settings.optimizer.config
    try:
        kind = type(keras.optimizers.get({"class_name": name, "config": dict(config)}))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"CONFIG holds an optimizer {name!r} that Keras cannot make ({first_line(error)}): give a configuration as "
            "keras.optimizers.serialize shows it"
        ) from None
    if kind is keras.optimizers.Adam and not config.get("amsgrad") and tensorflow_on_processor():
        kind = kernels.Adam
    if settings.bias_rate_factor != 1:
        kind = with_bias_rate(kind, settings.bias_rate_factor)
    if settings.muon_rate_factor:
        kind = with_muon(kind, settings.muon_rate_factor)
    if taken and (settings.encoder_rate_factor < 1 or settings.frozen_share):
        kind = discriminative(kind, taken, settings.encoder_rate_factor, settings.frozen_share * steps)
    rate = settings.learning_rate
    if settings.schedule in SCHEDULES:
        rate = OverTheRun(rate, SCHEDULES[settings.schedule], settings.warmup, steps)
    return kind(rate, **config)


def with_bias_rate(kind, factor):
    """The class of optimizers `kind`, with `factor` times the learning rate for vectors.

    Vectors are the biases of layers, and the offsets and scales of batch normalisations.
    """

    class WithBiasRate(kind):
        def update_step(self, gradient, variable, learning_rate):
            rate = learning_rate * factor if len(variable.shape) == 1 else learning_rate
            super().update_step(gradient, variable, rate)

    return WithBiasRate


def with_muon(kind, factor, momentum=0.6):
    """The class of optimizers `kind`, with Muon for convolutions, at `factor` times the learning rate.

    A step of Muon goes about equally far in all directions that the gradient has, and each kernel is scaled to the
    length that filters of length 1 would give it (Jordan et al. 2024, Muon: An optimizer for hidden layers in neural
    networks). Keras's own Muon leaves convolutions to Adam.
    """

    class WithMuon(kind):
        def update_step(self, gradient, variable, learning_rate):
            if len(variable.shape) != 4:
                return super().update_step(gradient, variable, learning_rate)
            filters, velocity = variable.shape[-1], self.momentums[self._get_variable_index(variable)]
            self.assign(velocity, momentum * velocity + gradient)
            ahead = gradient + momentum * velocity  # Nesterov's momentum
            step = ops.reshape(orthogonal(ops.reshape(ahead, (-1, filters))), variable.shape)
            scaled = variable * ops.sqrt(filters / ops.sum(ops.square(variable)))
            self.assign(variable, scaled - learning_rate * factor * step)

    return WithMuon


def orthogonal(matrix, steps=3):
    """A matrix near the orthogonal one that is closest to `matrix`, by `steps` Newton-Schulz iterations.

    Its singular values lie between 0.7 and 1.2, but for those that were much smaller than the others.
    """
    x = matrix / (ops.norm(matrix) + 1e-7)
    x = ops.transpose(x) if matrix.shape[0] > matrix.shape[1] else x
    for _ in range(steps):
        square = ops.matmul(x, ops.transpose(x))
        x = 3.4445 * x + ops.matmul(-4.7750 * square + 2.0315 * ops.matmul(square, square), x)
    return ops.transpose(x) if matrix.shape[0] > matrix.shape[1] else x


def discriminative(kind, taken, factor, frozen_steps):
    """The class of optimizers `kind`, in which the variables `taken` make only the share `factor` of each step.

    In the first `frozen_steps` steps they do not move at all. A step is all that `kind` does to a variable, weight
    decay included (discriminative fine-tuning: Howard and Ruder 2018, Universal Language Model Fine-tuning for Text
    Classification).
    """

    class Discriminative(kind):
        def apply(self, gradients, trainable_variables=None):
            before = [ops.copy(variable) for variable in taken]  # a tensor; the variable itself changes
            share = ops.where(self.iterations < frozen_steps, 0.0, factor)
            iterations = super().apply(gradients, trainable_variables)
            for variable, value in zip(taken, before, strict=True):
                variable.assign(value + share * (variable - value))
            return iterations

    return Discriminative


def schedule_callbacks(settings):
    """The callbacks that change the learning rate from epoch to epoch."""
    if settings.schedule == "plateau":
        callback = keras.callbacks.ReduceLROnPlateau
        return [callback(monitor="val_loss", factor=0.3, patience=10, min_lr=1e-4, cooldown=1)]
    if isinstance(settings.schedule, float):
        rate, factor = settings.learning_rate, settings.schedule
        return [keras.callbacks.LearningRateScheduler(lambda epoch: rate * factor**epoch)]
    return []
