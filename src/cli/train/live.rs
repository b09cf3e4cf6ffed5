//! A run as a block of lines: curves of both losses and accuracies, beside them what guessing reaches, speed and
//! stages. A pure function of what is known and of the terminal's width.

use crate::flow::StageReport;
use crate::sample::Paint;
use crate::train::{Figures, Record, StepRecord};

use super::super::bottleneck::WAITING;
use super::super::output::{bytes, grouped};

/// The course of one figure, in a bounded number of points.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    /// Means over `stride` values each.
    points: Vec<f64>,
    stride: usize,
    /// Sum and number of the values behind the last point.
    open: (f64, usize),
}

/// Most points of a curve: several for each column of the widest terminal.
const MOST_POINTS: usize = 1024;

impl Curve {
    /// Adds a value.
    pub fn push(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        let stride = self.stride.max(1);
        self.open = (self.open.0 + value, self.open.1 + 1);
        if self.open.1 < stride {
            return;
        }
        self.points.push(self.open.0 / stride as f64);
        self.open = (0.0, 0);
        self.stride = stride;
        if self.points.len() == MOST_POINTS {
            self.points = self.points.chunks_exact(2).map(|pair| f64::midpoint(pair[0], pair[1])).collect();
            self.stride *= 2;
        }
    }

    /// As so many characters at most, from the lowest value to the highest.
    pub fn drawn(&self, width: usize) -> String {
        const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let columns = width.min(self.points.len());
        let mean = |column: usize| {
            let part = &self.points
                [column * self.points.len() / columns..(column + 1) * self.points.len() / columns];
            part.iter().sum::<f64>() / part.len() as f64
        };
        let means: Vec<f64> = (0..columns).map(mean).collect();
        let low = means.iter().copied().fold(f64::INFINITY, f64::min);
        let high = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let level = |value: f64| match high > low {
            true => ((value - low) / (high - low) * (LEVELS.len() - 1) as f64).round() as usize,
            false => 0,
        };
        means.into_iter().map(|value| LEVELS[level(value)]).collect()
    }
}

/// A figure of one task: its course, and what guessing reaches.
#[derive(Clone, Debug, Default)]
struct Figure {
    curve: Curve,
    last: f64,
    guess: Option<f64>,
}

impl Figure {
    fn push(&mut self, value: f64, guess: Option<f64>) {
        self.curve.push(value);
        (self.last, self.guess) = (value, guess);
    }
}

/// Loss and accuracy of one task on one text, once there is something to tell.
#[derive(Clone, Debug, Default)]
struct Row {
    seen: bool,
    loss: Figure,
    accuracy: Figure,
}

/// All that a block shows.
#[derive(Clone, Debug, Default)]
pub struct View {
    tokens: Row,
    tokens_test: Row,
    pairs: Row,
    pairs_test: Row,
    /// Step of the best evaluation.
    best: Option<u64>,
    step: Option<StepRecord>,
    /// Resident memory, where the system tells it.
    pub memory: Option<u64>,
}

impl View {
    /// Takes up what was recorded.
    pub fn record(&mut self, record: &Record) {
        match record {
            Record::Step(record) => {
                self.tokens.add_masked(&record.figures);
                self.pairs.add_pairs(&record.figures);
                self.step = Some(record.clone());
            }
            Record::Evaluation(record) => {
                self.tokens_test.add_masked(&record.figures);
                self.pairs_test.add_pairs(&record.figures);
                if record.best {
                    self.best = Some(record.step);
                }
            }
            _ => {}
        }
    }

    /// The block, no line wider than `width` columns.
    pub fn block(&self, width: usize, paint: Paint) -> String {
        let Some(step) = &self.step else { return String::new() };
        let ink = Ink { paint };
        // What stands around the two curves.
        let curve = (width.saturating_sub(AROUND) / 2).min(MOST_COLUMNS);
        let loss = curve + 16;
        let mut lines = vec![ink.dim(&format!("  {:<8}{:<loss$}  {}", "", "loss", "accuracy"))];
        for (name, row) in [
            ("tokens", &self.tokens),
            ("  test", &self.tokens_test),
            ("pairs", &self.pairs),
            ("  test", &self.pairs_test),
        ] {
            if row.seen {
                lines.push(row.line(name, curve, ink));
            }
        }
        lines.push(speed(step, self.memory, self.best, ink, width));
        lines.push(stages(&step.stages, step.data_wait, ink));
        lines.join("\n")
    }
}

/// Columns of a row that are no curve, and most columns of a curve.
const AROUND: usize = 48;
const MOST_COLUMNS: usize = 36;

impl Row {
    fn add_masked(&mut self, figures: &Figures) {
        if figures.masked > 0 {
            self.seen = true;
            self.loss.push(figures.mlm_loss, figures.unigram_loss);
            self.accuracy.push(figures.mlm_accuracy, figures.majority_accuracy);
        }
    }

    fn add_pairs(&mut self, figures: &Figures) {
        if figures.pairs > 0 {
            self.seen = true;
            self.loss.push(figures.nsp_loss, figures.nsp_chance_loss);
            self.accuracy.push(figures.nsp_accuracy, figures.nsp_majority_accuracy);
        }
    }

    /// ` tokens   3.214 ▇▅▃▂▁ [6.50]    41.2 % ▁▂▃▅▇ [20 %]`
    fn line(&self, name: &str, curve: usize, ink: Ink) -> String {
        let share = |share: f64| format!("{:.1} %", 100.0 * share);
        let part = |figure: &Figure, value: String, guess: Option<String>, colour: u8| {
            let guess = guess.map_or(String::new(), |guess| format!("[{guess}]"));
            let drawn = figure.curve.drawn(curve);
            let gap = " ".repeat(curve - drawn.chars().count());
            format!("{value} {}{gap} {}", ink.colour(colour, &drawn), ink.dim(&format!("{guess:<8}")))
        };
        let loss = part(
            &self.loss,
            format!("{:>6.3}", self.loss.last),
            self.loss.guess.map(|guess| format!("{guess:.2}")),
            CYAN,
        );
        let accuracy = part(
            &self.accuracy,
            format!("{:>8}", share(self.accuracy.last)),
            self.accuracy.guess.map(share),
            GREEN,
        );
        format!("  {name:<8}{loss}  {}", accuracy.trim_end())
    }
}

/// What else is worth watching, as much of it as fits.
fn speed(step: &StepRecord, memory: Option<u64>, best: Option<u64>, ink: Ink, width: usize) -> String {
    let wait = format!("data wait {:.0} %", 100.0 * step.data_wait);
    let norm = step.grad_norm.map_or_else(|| "not finite".to_owned(), |norm| format!("{norm:.2}"));
    let mut parts = vec![
        (format!("{} tokens/s", grouped(step.tokens_per_second as u64)), None),
        (wait, (step.data_wait >= WAITING).then_some(RED)),
        (format!("rate {:.1e}", step.lr), None),
        (format!("norm {norm}"), step.grad_norm.is_none().then_some(RED)),
    ];
    parts.extend(memory.map(|memory| (format!("memory {}", bytes(memory)), None)));
    parts.extend(best.map(|best| (format!("best at {}", grouped(best)), None)));
    let mut line = String::from("  ");
    let mut columns = 2;
    for (at, (text, colour)) in parts.into_iter().enumerate() {
        let between = if at == 0 { "" } else { "   " };
        columns += between.len() + text.chars().count();
        if columns > width {
            break;
        }
        line += between;
        line += &colour.map_or(text.clone(), |colour| ink.colour(colour, &text));
    }
    line
}

/// How busy each stage is. The training is whenever it does not wait.
fn stages(stages: &[StageReport], data_wait: f64, ink: Ink) -> String {
    let one = |name: &str, busy: f64| {
        let mut level = Curve::default();
        [0.0, 1.0, busy].into_iter().for_each(|value| level.push(value));
        let bar = level.drawn(3).chars().last().unwrap_or(' ');
        format!("{name} {} {:.0} %", ink.colour(CYAN, &bar.to_string()), 100.0 * busy)
    };
    let mut parts: Vec<String> = stages.iter().map(|stage| one(&stage.name, stage.busy)).collect();
    parts.push(one("train", 1.0 - data_wait));
    format!("  {} {}", ink.dim("busy:"), parts.join("   "))
}

/// Of the sixteen colours, those that are seen on light and on dark ground.
const RED: u8 = 31;
const GREEN: u8 = 32;
const CYAN: u8 = 36;

/// Colours where they are wanted.
#[derive(Clone, Copy)]
struct Ink {
    paint: Paint,
}

impl Ink {
    fn colour(self, colour: u8, text: &str) -> String {
        match self.paint {
            Paint::Ansi if !text.is_empty() => format!("\x1b[{colour}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }

    fn dim(self, text: &str) -> String {
        self.colour(2, text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::terminal::tests::step_record;
    use super::*;
    use crate::train::EvaluationRecord;

    fn view(steps: u64) -> View {
        let mut view = View { memory: Some(312_000_000), ..View::default() };
        for step in 1..=steps {
            let mut record = step_record(step);
            record.figures.mlm_loss = 9.0 - 6.0 * step as f64 / steps as f64;
            record.figures.mlm_accuracy = 0.4 * step as f64 / steps as f64;
            view.record(&Record::Step(record));
        }
        view
    }

    #[test]
    fn a_block_shows_every_figure_at_any_width() {
        let check =
            |view: &View, width, expected: &str| assert_eq!(view.block(width, Paint::Plain), expected);
        check(&View::default(), 80, "");
        check(
            &view(20),
            80,
            "\x20         loss                              accuracy
  tokens   3.000 ██▇▇▆▆▅▅▄▄▃▃▂▂▂▁ [6.50]      40.0 % ▁▁▂▂▃▃▄▄▅▅▆▆▇▇▇█ [4.2 %]
  pairs    0.693 ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁ [0.69]      50.1 % ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁ [50.0 %]
  23,456 tokens/s   data wait 1 %   rate 1.0e-3   norm 1.00   memory 312.0 MB
  busy: sample ▃ 31 %   collate ▁ 4 %   train █ 99 %",
        );
        let mut tested = view(3);
        let figures = step_record(3).figures;
        tested.record(&Record::Evaluation(EvaluationRecord { step: 3, epoch: 0, figures, best: true }));
        let block = tested.block(120, Paint::Plain);
        assert_eq!(block.lines().filter(|line| line.starts_with("    test")).count(), 2, "{block}");
        assert!(block.contains("best at 3"), "{block}");
        for width in [20, 48, 60, 79, 80, 120, 300] {
            let block = view(2000).block(width, Paint::Plain);
            let widest = block.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width.max(54), "{widest} columns of {width}:\n{block}");
        }
        assert!(view(2).block(80, Paint::Ansi).contains("\x1b[36m█▁\x1b[0m"));
    }

    #[test]
    fn a_curve_of_any_length_has_a_bounded_number_of_points() {
        let mut curve = Curve::default();
        (0..100_000).for_each(|n| curve.push(f64::from(n)));
        assert!(curve.points.len() < MOST_POINTS);
        assert_eq!(curve.drawn(8), "▁▂▃▄▅▆▇█");
        curve.push(f64::NAN);
        assert_eq!(curve.drawn(1), "▁");
        assert_eq!(Curve::default().drawn(8), "");
    }
}
