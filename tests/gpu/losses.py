from tests.gpu.report import Report


def run(report: Report) -> None:
    report.skip("losses", "not yet written")
