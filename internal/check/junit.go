package check

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// The part of JUnit's report that CI systems read: a suite of tests, of which each
// finding is one that fails. There is no standard; this is what Jenkins and GitLab take
// (https://github.com/jenkinsci/xunit-plugin, model/xsd/junit-10.xsd).
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name    string       `xml:"name,attr"`
		Class   string       `xml:"classname,attr"`
		File    string       `xml:"file,attr,omitempty"`
		Line    int          `xml:"line,attr,omitempty"`
		Failure *junitFailed `xml:"failure"`
		Error   *junitFailed `xml:"error"`
		Out     string       `xml:"system-out,omitempty"`
	}
	junitFailed struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Text    string `xml:",chardata"`
	}
)

// writeJUnit writes a suite for the deliveries and one for each file with findings. A
// warning is a test that passes, with output.
func (r Report) writeJUnit(w io.Writer) error {
	all := junitSuites{Name: "holdfast check"}
	add := func(suite junitSuite) {
		suite.Tests = len(suite.Cases)
		for _, c := range suite.Cases {
			if c.Failure != nil {
				suite.Failures++
			}
			if c.Error != nil {
				suite.Errors++
			}
		}
		all.Tests, all.Failures, all.Errors = all.Tests+suite.Tests, all.Failures+suite.Failures, all.Errors+suite.Errors
		all.Suites = append(all.Suites, suite)
	}
	add(r.rendered())
	for i := 0; i < len(r.Findings); {
		suite := junitSuite{Name: r.Findings[i].File}
		for ; i < len(r.Findings) && r.Findings[i].File == suite.Name; i++ {
			suite.Cases = append(suite.Cases, r.Findings[i].junit())
		}
		add(suite)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// rendered is the suite of what was looked at: a run without findings has tests, too.
func (r Report) rendered() junitSuite {
	suite := junitSuite{Name: "holdfast check"}
	suite.Cases = append(suite.Cases, junitCase{Name: fmt.Sprintf("%d files", r.Files), Class: "secrets"})
	for _, d := range r.Deliveries {
		suite.Cases = append(suite.Cases, junitCase{Name: legible(d.Name), Class: "deliveries", File: legible(d.File), Line: d.Line})
	}
	for _, text := range r.Undecided {
		suite.Cases = append(suite.Cases, junitCase{Name: "could not be told", Class: "deliveries", Error: &junitFailed{Message: legible(text), Type: "undecided"}})
	}
	return suite
}

func (f Finding) junit() junitCase {
	c := junitCase{Name: legible(strings.TrimSpace(f.Rule + " " + f.Object)), Class: legible(f.File), File: legible(f.File), Line: f.Line}
	lines := []string{f.String()}
	for _, more := range f.about() {
		lines = append(lines, line(more))
	}
	text := strings.Join(lines, "\n")
	if f.Severity == Warning {
		c.Out = legible(text)
		return c
	}
	c.Failure = &junitFailed{Message: legible(line(f.words())), Type: f.Kind, Text: legible(text)}
	return c
}

// legible leaves out what XML cannot hold.
func legible(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || r < ' ' && r != '\n' && r != '\t' || r == 0xFFFE || r == 0xFFFF {
			return -1
		}
		return r
	}, s)
}
