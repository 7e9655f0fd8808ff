package conf

import (
	"errors"
	"fmt"
	"strings"
)

var errNoQuote = errors.New("a quote that is not closed")

// Split splits a command line into its words, as Python's shlex.split does:
// quotes and backslashes as in a shell, and nothing else. It is an error if a
// quote is not closed or nothing follows a backslash.
func Split(command string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord := false
	for i := 0; i < len(command); i++ {
		switch c := command[i]; c {
		case ' ', '\t', '\r', '\n':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		case '\\':
			if i++; i == len(command) {
				return nil, errors.New("nothing after a backslash")
			}
			inWord = true
			word.WriteByte(command[i])
		case '\'', '"':
			end := closingQuote(command[i:])
			if end < 0 {
				return nil, errNoQuote
			}
			inWord = true
			word.WriteString(unquote(command[i:i+end], c))
			i += end
		default:
			inWord = true
			word.WriteByte(c)
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// closingQuote returns where the quote is closed with which s begins, or -1.
func closingQuote(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case s[0]:
			return i
		case '\\':
			if s[0] == '"' {
				i++
			}
		}
	}
	return -1
}

// unquote returns what is in a quoted text that still has its first quote.
func unquote(s string, quote byte) string {
	s = s[1:]
	if quote == '"' {
		s = strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(s)
	}
	return s
}

// parseEnvironment reads KEY=value,KEY2="value 2" with Supervisor's lexer:
// Python's shlex without posix. unused are the words that it skips where a
// comma should be.
func parseEnvironment(text string) (env map[string]string, unused []string, err error) {
	tokens, err := lex(text)
	if err != nil {
		return nil, nil, err
	}
	env = map[string]string{}
	after := "at the beginning"
	for len(tokens) > 0 {
		key := tokens[0]
		if len(tokens) < 3 || tokens[1] != "=" {
			return nil, nil, fmt.Errorf("NAME=value is missing %s; quote values that have other characters than letters, digits and _/.+-():", after)
		}
		if !inWord(rune(key[0])) || strings.ContainsAny(key, `'"`) {
			return nil, nil, fmt.Errorf("a name with other characters than letters, digits and _/.+-(): %s", after)
		}
		env[key] = strings.Trim(tokens[2], `'"`)
		after = "after " + short(key)
		if len(tokens) > 3 && tokens[3] != "," {
			unused = append(unused, key)
		}
		tokens = tokens[min(4, len(tokens)):]
	}
	return env, unused, nil
}

// inWord says whether a character belongs to a word of the environment.
func inWord(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
		r < 128 && strings.ContainsRune("_/.+-():", r)
}

// lex returns words, quoted texts with their quotes, and all other characters
// one by one. A quote within a word is a part of it, and a comment too does not
// end a word, as in Python.
func lex(text string) (tokens []string, err error) {
	const blank = " \t\r\n"
	var word strings.Builder
	end := func() {
		if word.Len() > 0 {
			tokens = append(tokens, word.String())
			word.Reset()
		}
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case strings.IndexByte(blank, c) >= 0:
			end()
		case c == '#':
			n := strings.IndexByte(text[i:], '\n')
			if n < 0 {
				n = len(text) - i
			}
			i += n
		case inWord(rune(c)) || (c == '"' || c == '\'') && word.Len() > 0:
			word.WriteByte(c)
		case c == '"' || c == '\'':
			n := strings.IndexByte(text[i+1:], c)
			if n < 0 {
				return nil, errNoQuote
			}
			tokens = append(tokens, text[i:i+n+2])
			i += n + 1
		default:
			end()
			n := runeLen(text[i:])
			tokens = append(tokens, text[i:i+n])
			i += n - 1
		}
	}
	end()
	return tokens, nil
}
