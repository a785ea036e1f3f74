//! The text of a script: blocks of command lines, `----`, answer.
//!
//! ```text
//! # a comment, for the reader
//! campaign 1
//! deliver 1->2
//! ----
//! the answer, up to an empty line
//! ```

/// Ends the commands of a block.
const RULE: &str = "----";

/// Commands and the answer that they must get.
#[derive(Debug)]
pub struct Block {
    /// Number of the block's first command line.
    pub line: usize,
    /// Everything before the rule as it stands in the file.
    pub text: String,
    /// The lines of it that are commands.
    pub commands: Vec<String>,
    /// The recorded answer.
    pub answer: String,
}

/// Cuts a script into blocks; what follows the last answer is returned beside them.
pub fn parse(script: &str) -> (Vec<Block>, String) {
    let mut blocks = Vec::new();
    let (mut text, mut commands, mut line) = (String::new(), Vec::new(), 0);
    let mut lines = script.lines().enumerate();
    while let Some((nth, row)) = lines.next() {
        if row == RULE {
            let answer = lines.by_ref().map(|(_, row)| row).take_while(|row| !row.is_empty());
            let answer = answer.fold(String::new(), |all, row| all + row + "\n");
            let (text, commands) = (core::mem::take(&mut text), core::mem::take(&mut commands));
            blocks.push(Block { line, text, commands, answer });
            continue;
        }
        if !row.is_empty() && !row.starts_with('#') {
            line = if commands.is_empty() { nth + 1 } else { line };
            commands.push(row.to_owned());
        }
        text = text + row + "\n";
    }
    (blocks, text)
}

/// The script with `answers` in the place of the recorded ones.
pub fn render(blocks: &[Block], answers: &[String], rest: &str) -> String {
    let mut script = String::new();
    for (block, answer) in blocks.iter().zip(answers) {
        script = script + &block.text + RULE + "\n" + answer + "\n";
    }
    let script = script + rest;
    script.trim_end().to_owned() + "\n"
}

/// The first line of a script: `# <fact>`.
pub fn fact(script: &str) -> Option<&str> {
    script.lines().next()?.strip_prefix("# ").filter(|fact| fact.len() > 10)
}

#[test]
fn a_script_is_rendered_as_it_was_read() {
    let script = "# a story\n\nnodes 3\n# why\nstate\n----\none\ntwo\n\nlog\n----\nthree\n";
    let (blocks, rest) = parse(script);
    assert_eq!(blocks[0].commands, ["nodes 3", "state"]);
    assert_eq!((blocks[0].line, blocks[1].line), (3, 10));
    let answers: Vec<_> = blocks.iter().map(|block| block.answer.clone()).collect();
    assert_eq!(render(&blocks, &answers, &rest), script);
}
