//! The program `diemcau`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
