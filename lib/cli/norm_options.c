#include "cli/norm_options.h"

mabn_status mabn_cli_window_rule(const char *argument, void *value)
{
    return mabn_word_parse(value, mabn_window_rules, "window rule", argument);
}
