// Package spec reads and writes spec files: the YAML that tells Exosite's
// product tools which resources a product's devices have.
package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Resource is what a device has one of: a named time series.
type Resource struct {
	Alias  string
	Format string // one of Formats
	// Settable resources can be written by the product's side; devices can write
	// all.
	Settable bool
}

// Formats are what the values of a resource can be. The older generation has
// "integer" and "float", the current one "number" and "boolean".
func Formats() []string { return []string{"string", "number", "integer", "float", "boolean"} }

// GWE is what Gateway Engine reports to and takes its commands from.
func GWE() []Resource {
	return []Resource{
		{Alias: "engine_report", Format: "string"},
		{Alias: "device_info", Format: "string"},
		{Alias: "usage_report", Format: "string"},
		{Alias: "engine_fetch", Format: "string", Settable: true},
		{Alias: "fetch_status", Format: "string"},
		{Alias: "update_interval", Format: "string", Settable: true},
	}
}

// Check tells whether a value is of the resource's format. An empty value is:
// it clears a resource.
func (r Resource) Check(value string) error {
	if value == "" {
		return nil
	}
	var err error
	switch r.Format {
	case "number", "float":
		_, err = strconv.ParseFloat(value, 64)
	case "integer":
		_, err = strconv.ParseInt(value, 10, 64)
	case "boolean":
		if value != "true" && value != "false" {
			err = errors.New("not true or false")
		}
	}
	if err != nil {
		return fmt.Errorf("%s takes a value of format %s, not %.40q", r.Alias, r.Format, value)
	}
	return nil
}

// entry is a resource as both forms have it. What else product tools keep
// there (name, unit, initial, ...) is theirs.
type entry struct {
	Alias    string `yaml:"alias,omitempty"`
	Format   string `yaml:"format"`
	Settable *bool  `yaml:"settable,omitempty"`
}

// Older has resources in the form of the older generation's tools: a list
// under "resources". It has no word for settable: with these tools all are.
func Older(resources []Resource) []byte {
	list := []entry{}
	for _, r := range resources {
		list = append(list, entry{Alias: r.Alias, Format: r.Format})
	}
	return marshal(map[string][]entry{"resources": list})
}

// Current has resources in the form of the current generation's tools: a
// mapping from aliases.
func Current(resources []Resource) []byte {
	m := &yaml.Node{Kind: yaml.MappingNode} // keeps the order
	for _, r := range resources {
		var alias, value yaml.Node
		alias.SetString(r.Alias)
		if err := value.Encode(entry{Format: r.Format, Settable: &r.Settable}); err != nil {
			panic(err) // of two plain values
		}
		m.Content = append(m.Content, &alias, &value)
	}
	return marshal(m)
}

func marshal(v any) []byte {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(v); err != nil {
		panic(err) // of plain values
	}
	enc.Close()
	return b.Bytes()
}

const (
	maxAlias     = 128
	maxResources = 1000
)

// Parse reads a spec file of either form. In the older one all resources are
// settable unless they say otherwise, in the current one none.
func Parse(text []byte) ([]Resource, error) {
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, errors.New("the spec file is empty: want resources, such as \"engine_fetch: {format: string, settable: true}\"")
	} else if err != nil {
		return nil, fmt.Errorf("the spec file is not YAML: %w", err)
	}
	root := doc.Content[0]
	if root.Kind == yaml.MappingNode {
		for i := 0; i < len(root.Content); i += 2 {
			if root.Content[i].Value == "resources" {
				root = root.Content[i+1]
				break
			}
		}
	}
	var resources []Resource
	add := func(n *yaml.Node, alias string, settable bool) error {
		var e entry
		if n.Kind == yaml.AliasNode {
			n = n.Alias
		}
		if n.Kind != yaml.MappingNode {
			return fmt.Errorf("line %d: %q is no resource: want its settings, such as {format: string}", n.Line, n.Value)
		}
		if err := n.Decode(&e); err != nil {
			return fmt.Errorf("line %d: %w", n.Line, err)
		}
		if alias == "" {
			alias = e.Alias
		}
		r := Resource{Alias: alias, Format: e.Format, Settable: settable}
		if r.Format == "" {
			r.Format = "string"
		}
		if e.Settable != nil {
			r.Settable = *e.Settable
		}
		switch {
		case !isAlias(r.Alias):
			return fmt.Errorf("line %d: alias %.40q: want 1 to %d letters, digits and _-.", n.Line, r.Alias, maxAlias)
		case !slices.Contains(Formats(), r.Format):
			return fmt.Errorf("line %d: format %.40q of %s: want one of %s", n.Line, r.Format, r.Alias, strings.Join(Formats(), ", "))
		case slices.ContainsFunc(resources, func(o Resource) bool { return o.Alias == r.Alias }):
			return fmt.Errorf("line %d: %s is there twice", n.Line, r.Alias)
		case len(resources) == maxResources:
			return fmt.Errorf("line %d: more than %d resources", n.Line, maxResources)
		}
		resources = append(resources, r)
		return nil
	}
	var err error
	switch root.Kind {
	case yaml.SequenceNode:
		for i := 0; i < len(root.Content) && err == nil; i++ {
			err = add(root.Content[i], "", true)
		}
	case yaml.MappingNode:
		for i := 0; i < len(root.Content) && err == nil; i += 2 {
			if alias := root.Content[i]; alias.Value == "" {
				err = fmt.Errorf("line %d: a resource without an alias", alias.Line)
			} else {
				err = add(root.Content[i+1], alias.Value, false)
			}
		}
	default:
		err = fmt.Errorf("line %d: want a list of resources or a mapping from aliases", root.Line)
	}
	if err != nil {
		return nil, fmt.Errorf("the spec file, %w", err)
	}
	if len(resources) == 0 {
		return nil, errors.New("the spec file has no resource")
	}
	return resources, nil
}

func isAlias(s string) bool {
	for _, c := range []byte(s) {
		if !('0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' || c == '_' || c == '-' || c == '.') {
			return false
		}
	}
	return s != "" && len(s) <= maxAlias
}
