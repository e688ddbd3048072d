"""The optimizer of a training: its learning rate over the run, Muon, and slower steps of pretrained layers."""

from recipes import SCHEDULES
from util.backend import keras
from util.cli import InputError
from util.files import first_line

ops = keras.ops


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
    """The optimizer of the settings for a run of `steps`. Raises InputError where a CONFIG's cannot be made.

    `taken` are the variables of pretrained layers, which ENCODER=tuned may train more slowly than the others.
    """
    if isinstance(settings.optimizer, str):
        name, config = settings.optimizer, {}
    else:
        name, config = settings.optimizer.class_name, settings.optimizer.config
    rate = settings.learning_rate
    if settings.schedule in SCHEDULES:
        rate = OverTheRun(rate, SCHEDULES[settings.schedule], settings.warmup, steps)
    try:
        kind = type(keras.optimizers.get(name))
        if settings.bias_rate_factor != 1 or settings.muon_rate_factor:
            kind = extended(kind, settings)
        if config:  # Keras looks at most values when it takes a step
            kind(rate, **config).apply([ops.ones((2, 2))], [keras.Variable(ops.ones((2, 2)))])
        if taken and (settings.encoder_rate_factor < 1 or settings.frozen_share):
            kind = discriminative(kind, taken, settings.encoder_rate_factor, settings.frozen_share * steps)
        return kind(rate, **config)
    except Exception as error:  # of whatever kind: KeyError, InvalidArgumentError
        raise InputError(
            f"CONFIG holds an optimizer {name!r} that Keras cannot make ({first_line(error)}): give a configuration as "
            "keras.optimizers.serialize shows it"
        ) from None


def orthogonal(matrix, steps=3):
    """About the nearest matrix whose singular values are all alike: they end between 0.7 and 1.2, by Newton-Schulz."""
    x = matrix / (ops.norm(matrix) + 1e-7)
    x = ops.transpose(x) if matrix.shape[0] > matrix.shape[1] else x
    for _ in range(steps):
        square = ops.matmul(x, ops.transpose(x))
        x = 3.4445 * x + ops.matmul(-4.7750 * square + 2.0315 * ops.matmul(square, square), x)
    return ops.transpose(x) if matrix.shape[0] > matrix.shape[1] else x


def extended(kind, settings):
    """The class of optimizers `kind` with another rate for biases and, with a `muon_rate_factor`, convolutions by Muon.

    Muon's step goes equally far in all directions that the gradient has, and kernels keep a length of 1 a filter
    (Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks). Keras's Muon takes matrices alone.
    """

    class Extended(kind):
        def update_step(self, gradient, variable, learning_rate):
            if settings.muon_rate_factor and len(variable.shape) == 4:
                rate = learning_rate * settings.muon_rate_factor
                return self.muon_step(gradient, variable, rate, self.momentums[self._get_variable_index(variable)])
            vector = len(variable.shape) == 1  # biases, and what a normalisation learns
            return super().update_step(gradient, variable, learning_rate * (settings.bias_rate_factor if vector else 1))

        def muon_step(self, gradient, kernel, rate, velocity, momentum=0.6):
            filters = kernel.shape[-1]
            self.assign(velocity, momentum * velocity + gradient)
            ahead = gradient + momentum * velocity
            step = ops.reshape(orthogonal(ops.reshape(ahead, (-1, filters))), kernel.shape)
            self.assign(kernel, kernel * ops.sqrt(filters / ops.sum(ops.square(kernel))) - rate * step)

    return Extended


def discriminative(kind, taken, factor, frozen_steps):
    """The class of optimizers `kind` in which the variables `taken` make the share `factor` of each step.

    During the first `frozen_steps` they make none. A step is all that `kind` does to a variable, weight decay included
    (discriminative fine-tuning: Howard and Ruder 2018, Universal Language Model Fine-tuning for Text Classification).
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
