package sealed

import (
	"maps"
	"reflect"
	"regexp/syntax"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig/v3"
)

// cost estimates how many bytes a function makes or looks at, beyond reading its
// arguments once, before it is called. It fails with errNumber and errSpent.
type cost func(args []reflect.Value) (int, error)

// Why functions of the stock controller are not offered.
const (
	byChance = "what it makes is another each time, and so would be the Secret"
	byClock  = "what it makes depends on the time, and so would the Secret"
	inPlace  = "it changes values in place, which can make them endless"
	costly   = "it costs more than a template may"
)

// withheld are the functions that the stock controller has and templates here have not.
func withheld() map[string]string {
	all := map[string]string{}
	for why, names := range map[string]string{
		byChance: `randAlphaNum randAlpha randAscii randNumeric randBytes randInt shuffle uuidv4 bcrypt htpasswd encryptAES
			genPrivateKey genCA genCAWithKey genSelfSignedCert genSelfSignedCertWithKey genSignedCert genSignedCertWithKey`,
		byClock: `now ago date date_in_zone date_modify dateInZone dateModify htmlDate htmlDateInZone must_date_modify
			mustDateModify toDate mustToDate unixEpoch duration durationRound`,
		inPlace: `set unset merge mergeOverwrite mustMerge mustMergeOverwrite`,
		costly:  `derivePassword buildCustomCert`,
	} {
		for name := range strings.FieldsSeq(names) {
			all[name] = why
		}
	}
	return all
}

// offered are the functions of templates: those of sprig whose cost can be told from
// their arguments, by how it is told.
func offered() map[string]cost {
	all := map[string]cost{}
	for name := range strings.FieldsSeq(`abbrev abbrevboth trunc trim upper lower title untitle substr trimSuffix trimPrefix nospace initials
		swapcase snakecase camelcase kebabcase contains hasPrefix hasSuffix quote squote cat plural sha1sum sha256sum sha512sum adler32sum
		atoi int64 int float64 toDecimal split splitList splitn toStrings add1 add sub div mod mul add1f addf subf divf mulf
		biggest max min maxf minf ceil floor round sortAlpha default empty coalesce all any compact mustCompact fromJson toJson
		toRawJson mustFromJson mustToJson mustToRawJson ternary deepCopy mustDeepCopy typeOf typeIs typeIsLike kindOf kindIs deepEqual
		base dir clean ext isAbs osBase osClean osDir osExt osIsAbs b64enc b64dec b32enc b32dec tuple list dict get hasKey pluck keys
		pick values append push mustAppend mustPush prepend mustPrepend first mustFirst rest mustRest last mustLast initial
		mustInitial reverse mustReverse slice mustSlice concat dig chunk mustChunk fail hello decryptAES regexQuoteMeta urlParse urlJoin wrap`) {
		all[name] = linear
	}
	for name := range strings.FieldsSeq("omit uniq mustUniq without mustWithout has mustHas trimall trimAll") {
		all[name] = product
	}
	for name := range strings.FieldsSeq("regexMatch regexFindAll regexFind regexReplaceAll regexReplaceAllLiteral regexSplit") {
		all[name], all["mustR"+name[1:]] = matching, matching
	}
	maps.Copy(all, map[string]cost{
		"until": counting, "untilStep": counting, "seq": counting,
		"repeat": repeating, "indent": repeating, "nindent": repeating,
		"replace": replacing, "wrapWith": wrapping, "join": joining,
		"toPrettyJson": deep, "mustToPrettyJson": deep,
		"semver": short, "semverCompare": short, "toString": escaping,
	})
	return all
}

// builtin are functions of the template package that make texts; the others make none.
func builtin() (template.FuncMap, map[string]cost) {
	functions := template.FuncMap{
		"html": template.HTMLEscaper, "js": template.JSEscaper, "urlquery": template.URLQueryEscaper,
		"print": sprint, "println": sprintln, "printf": sprintf,
	}
	costs := map[string]cost{
		"html": escaping, "js": escaping, "urlquery": escaping, "print": escaping, "println": escaping, "printf": formatting,
	}
	return functions, costs
}

// functions returns what templates may call. What is withheld is there as well, so
// that it can be refused by name.
func (b *budget) functions() template.FuncMap {
	all, extra := builtin()
	costs := offered()
	for name, f := range sprig.GenericFuncMap() {
		if _, ok := costs[name]; ok {
			all[name] = f
		}
	}
	maps.Copy(costs, extra)
	for name, f := range all {
		all[name] = b.counted(f, costs[name])
	}
	for name := range withheld() {
		all[name] = func(...any) (string, error) { return "", errSpent }
	}
	all[stepFunction], all[writtenFunction] = b.step, written
	return all
}

func linear([]reflect.Value) (int, error) { return 0, nil }

// product compares every element of an argument to every one of the others, or, of
// one argument alone, to one another.
func product(args []reflect.Value) (int, error) {
	if len(args) == 1 {
		args = append(args, args[0])
	}
	n := 1
	for _, a := range args {
		if n *= count(a); n > maxMade {
			return 0, errSpent
		}
	}
	return n, nil
}

// matching is the size of the expression's program for each byte, and the replacement
// for each too.
func matching(args []reflect.Value) (int, error) {
	texts := strs(args)
	if len(texts) < 2 || len(texts[0]) > maxPattern {
		return 0, errSpent
	}
	expr, err := syntax.Parse(texts[0], syntax.Perl)
	if err != nil {
		return 0, errFailed
	}
	program, err := syntax.Compile(expr.Simplify())
	if err != nil {
		return 0, errFailed
	}
	each := len(program.Inst)
	if len(texts) > 2 {
		each += len(texts[2])
	}
	return each * (len(texts[1]) + 1), nil
}

func counting(args []reflect.Value) (int, error) {
	numbers, err := ints(args)
	return len(numbers) * maxNumber * 2, err
}

// repeating has the number first, and the text second.
func repeating(args []reflect.Value) (int, error) {
	numbers, err := ints(args)
	texts := strs(args)
	if err != nil || len(numbers) == 0 || len(texts) == 0 {
		return 0, err
	}
	return max(numbers[0], 0) * (len(texts[0]) + 1), nil
}

func replacing(args []reflect.Value) (int, error) {
	texts := strs(args)
	if len(texts) < 3 {
		return 0, errFailed
	}
	return (strings.Count(texts[2], texts[0]) + 1) * len(texts[1]), nil
}

func wrapping(args []reflect.Value) (int, error) {
	texts := strs(args)
	if len(texts) < 2 {
		return 0, errFailed
	}
	return (len(texts[0]) + 1) * (len(texts[1]) + 1), nil
}

func joining(args []reflect.Value) (int, error) {
	if len(args) < 2 {
		return 0, errFailed
	}
	return args[0].Len() * count(args[1]), nil
}

// deep writes up to two spaces for each level that an element is in.
func deep(args []reflect.Value) (int, error) {
	n := 0
	for _, a := range args {
		n += count(a) * maxDeep * 2
	}
	return n, nil
}

// short takes versions and ranges of them.
func short(args []reflect.Value) (int, error) {
	for _, s := range strs(args) {
		if len(s) > maxPattern {
			return 0, errSpent
		}
	}
	return 0, nil
}

const escaped = 8 // bytes that one may become

// escaping makes texts of values, of which one that is not there has none.
func escaping(args []reflect.Value) (int, error) {
	n := 0
	for _, a := range args {
		if a.Kind() == reflect.Interface && a.IsNil() {
			return 0, &nothingError{}
		}
		s, err := size(a)
		if err != nil {
			return 0, err
		}
		n += s * escaped
	}
	return n, nil
}

// formatting counts every verb as printing all arguments, and all numbers as widths.
func formatting(args []reflect.Value) (int, error) {
	texts := strs(args[:1])
	if len(texts) == 0 || strings.ContainsRune(texts[0], '*') {
		return 0, errSpent
	}
	each, err := escaping(args[1:])
	if err != nil {
		return 0, err
	}
	width, widest := 0, 0
	for _, c := range texts[0] {
		if c < '0' || c > '9' {
			width = 0
			continue
		}
		if width = width*10 + int(c-'0'); width > maxNumber {
			return 0, errNumber
		}
		widest = max(widest, width)
	}
	return strings.Count(texts[0], "%") * (each + 2*widest), nil
}
