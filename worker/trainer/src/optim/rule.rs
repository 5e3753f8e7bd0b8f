//! What a step makes of values that lie one behind the other: decay, momentum or
//! moments, the change and the proximal step of L1, in one pass.

use cakes::spec::OptimizerSpec;

use super::Step;

/// The numbers of a step that all parameters share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// Gradients are multiplied with it, so that they are no longer than allowed.
    clip: f32,
    rate: f32,
    /// L1 on γ of weight 1, in this step.
    l1: f32,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Sgd { momentum: f32, nesterov: bool },
    AdamW { beta1: f32, beta2: f32, epsilon: f32 },
}

/// Values of one parameter with all that belongs to them, place by place.
pub(super) struct Part<'a> {
    pub values: &'a mut [f32],
    pub gradient: &'a [f32],
    pub first: &'a mut [f32],
    /// Empty for SGD.
    pub second: &'a mut [f32],
    /// Weights of L1; empty where there is none.
    pub l1_weights: &'a [f32],
    /// Weight decay.
    pub decay: f32,
    /// For Adam: what is missing to 1 in the weights of the averages so far.
    pub debias: [f32; 2],
}

impl Rule {
    pub fn new(spec: &OptimizerSpec, step: Step<'_>, clip: f64) -> Self {
        let kind = match *spec {
            OptimizerSpec::Sgd { momentum, nesterov, .. } => {
                Kind::Sgd { momentum: momentum as f32, nesterov }
            }
            OptimizerSpec::AdamW { beta1, beta2, epsilon, .. } => {
                Kind::AdamW { beta1: beta1 as f32, beta2: beta2 as f32, epsilon: epsilon as f32 }
            }
        };
        let l1 = (step.learning_rate * step.l1_strength) as f32;
        Rule { clip: clip as f32, rate: step.learning_rate as f32, l1, kind }
    }

    pub fn apply(&self, part: &mut Part<'_>) {
        match self.kind {
            Kind::Sgd { momentum, nesterov: true } => {
                self.sgd(part, momentum, |gradient, velocity| gradient + momentum * velocity)
            }
            Kind::Sgd { momentum, nesterov: false } => self.sgd(part, momentum, |_, velocity| velocity),
            Kind::AdamW { beta1, beta2, epsilon } => self.adam_w(part, [beta1, beta2], epsilon),
        }
        shrink(part.values, part.l1_weights, self.l1);
    }

    #[inline(always)]
    fn sgd(&self, part: &mut Part<'_>, momentum: f32, change: impl Fn(f32, f32) -> f32) {
        let (clip, rate, decay) = (self.clip, self.rate, part.decay);
        let state = part.first.iter_mut().zip(part.gradient);
        for (value, (velocity, gradient)) in part.values.iter_mut().zip(state) {
            let gradient = gradient * clip + decay * *value;
            *velocity = momentum * *velocity + gradient;
            *value -= rate * change(gradient, *velocity);
        }
    }

    #[inline(always)]
    fn adam_w(&self, part: &mut Part<'_>, [beta1, beta2]: [f32; 2], epsilon: f32) {
        let (clip, rate, decay, [debias1, debias2]) = (self.clip, self.rate, part.decay, part.debias);
        let state = part.first.iter_mut().zip(part.second.iter_mut()).zip(part.gradient);
        for (value, ((mean, square), gradient)) in part.values.iter_mut().zip(state) {
            let gradient = gradient * clip;
            *mean = beta1 * *mean + (1.0 - beta1) * gradient;
            *square = beta2 * *square + (1.0 - beta2) * gradient * gradient;
            let change = (*mean / debias1) / ((*square / debias2).sqrt() + epsilon);
            *value -= rate * (change + decay * *value);
        }
    }
}

/// What is missing to 1 in the weights of an average after `count` values.
pub(super) fn debias(spec: &OptimizerSpec, count: f64) -> [f32; 2] {
    match *spec {
        OptimizerSpec::Sgd { .. } => [1.0; 2],
        OptimizerSpec::AdamW { beta1, beta2, .. } => {
            [beta1, beta2].map(|beta| (1.0 - beta.powf(count)) as f32)
        }
    }
}

/// Weight decay, of weights.
pub(super) fn weight_decay(spec: &OptimizerSpec) -> f64 {
    match *spec {
        OptimizerSpec::Sgd { weight_decay, .. } | OptimizerSpec::AdamW { weight_decay, .. } => weight_decay,
    }
}

/// The proximal step of L1 on γ: shrinks towards zero and stops there. It comes
/// after the gradient step, so clipping does not rescale it, and it makes exact
/// zeros, which a sub-gradient never does.
fn shrink(values: &mut [f32], weights: &[f32], strength: f32) {
    if strength > 0.0 {
        for (value, weight) in values.iter_mut().zip(weights) {
            *value = (value.abs() - weight * strength).max(0.0).copysign(*value);
        }
    }
}
